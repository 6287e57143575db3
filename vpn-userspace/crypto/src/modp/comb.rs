//! Powers of a base that never changes, in constant time, several times faster than of one that is not known beforehand.
//!
//! The comb of Lim and Lee ("More Flexible Exponentiation with Precomputation", CRYPTO '94): the exponent is written in
//! [`TEETH`] rows of equal length, and each column of bits picks one of 2^[`TEETH`] products that were made once.

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Choice, CtAssign as _, CtEq as _};
use zeroize::{Zeroize as _, Zeroizing};

/// Rows of the comb. One more saves a seventh of the multiplications and doubles the table, which is read whole for
/// every column.
const TEETH: u32 = 6;

/// A base with the products of its powers.
pub(super) struct Comb {
    /// At index i the product of base^(2^(row * columns)) over the bits `row` that are set in i.
    /// In Montgomery form.
    table: Vec<BoxedUint>,
    params: BoxedMontyParams,
    columns: u32,
}

impl Comb {
    /// Prepares for exponents of up to `bits` bits.
    pub(super) fn new(base: &BoxedMontyForm, bits: u32) -> Self {
        let columns = bits.div_ceil(TEETH);
        let mut products = vec![BoxedMontyForm::one(base.params())];
        let mut tooth = base.clone();
        for _ in 0..TEETH {
            let with: Vec<_> = products.iter().map(|product| product * &tooth).collect();
            products.extend(with);
            for _ in 0..columns {
                tooth = tooth.square();
            }
        }
        let table = products.iter().map(|product| product.as_montgomery().clone()).collect();
        Self { table, params: base.params().clone(), columns }
    }

    #[cfg(test)]
    pub(super) fn base(&self) -> BoxedMontyForm {
        BoxedMontyForm::from_montgomery(self.table[1].clone(), &self.params)
    }

    /// base^exponent. The exponent must have no more bits than were prepared for; neither the time that this takes
    /// nor the memory that it reads depends on their values.
    pub(super) fn pow(&self, exponent: &BoxedUint) -> BoxedMontyForm {
        let bits = exponent.bits_precision();
        assert!(bits <= self.columns * TEETH, "the comb was made for shorter exponents");
        let mut power = BoxedMontyForm::one(&self.params);
        for column in (0..self.columns).rev() {
            let mut index = 0;
            for row in (0..TEETH).rev() {
                let at = row * self.columns + column;
                let bit = if at < bits { exponent.bit(at) } else { Choice::FALSE };
                index = index << 1 | u32::from(bit.to_u8());
            }
            power = power.square() * self.pick(index);
            index.zeroize();
        }
        power
    }

    /// The entry at `wanted`, by looking at all of them.
    fn pick(&self, wanted: u32) -> BoxedMontyForm {
        let mut picked = Zeroizing::new(BoxedUint::zero_with_precision(self.params.bits_precision()));
        for (index, entry) in (0u32..).zip(&self.table) {
            picked.ct_assign(entry, index.ct_eq(&wanted));
        }
        BoxedMontyForm::from_montgomery(BoxedUint::clone(&picked), &self.params)
    }
}
