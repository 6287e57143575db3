//! The AEAD of RFC 8439 2.8 over the text of a [`State`], in steps.
use super::{MAX_TEXT, State, TEXT_WORDS, chacha, poly};

/// The steps of which [`seal`] and [`open`] consist. The kernel's programs make a function of each, so that the verifier
/// sees it once and not at every call.
pub trait Steps {
    /// [`chacha::block`].
    fn block(s: &mut State);
    /// [`begin`].
    fn begin(s: &mut State);
    /// [`seal_block`].
    fn seal_block(s: &mut State, block: u32);
    /// [`seal_rest`].
    fn seal_rest(s: &mut State, block: u32, words: u32);
    /// [`open_block`].
    fn open_block(s: &mut State, block: u32);
    /// [`open_rest`].
    fn open_rest(s: &mut State, block: u32, words: u32);
    /// [`finish`].
    fn finish(s: &mut State);
}

/// The steps as ordinary calls.
pub struct Direct;

impl Steps for Direct {
    fn block(s: &mut State) {
        chacha::block(s);
    }
    fn begin(s: &mut State) {
        begin(s);
    }
    fn seal_block(s: &mut State, block: u32) {
        seal_block(s, block);
    }
    fn seal_rest(s: &mut State, block: u32, words: u32) {
        seal_rest(s, block, words);
    }
    fn open_block(s: &mut State, block: u32) {
        open_block(s, block);
    }
    fn open_rest(s: &mut State, block: u32, words: u32) {
        open_rest(s, block, words);
    }
    fn finish(s: &mut State) {
        finish(s);
    }
}

/// Blocks of 64 bytes in the longest text.
const MAX_BLOCKS: u32 = MAX_TEXT / 64;

/// Encrypts the text of [`State::text_len`] bytes and puts its check value behind it. Key, salt, IV and what else is
/// authenticated are in the state. False, and nothing done, for a length that no text has.
#[inline(always)]
pub fn seal<S: Steps>(s: &mut State) -> bool {
    if s.text_len > MAX_TEXT || s.text_len & 3 != 0 {
        return false;
    }
    s.input[12] = 0;
    S::block(s);
    S::begin(s);
    let words = s.text_len >> 2;
    let (blocks, rest) = (words >> 4, words & 15);
    let mut i = 0;
    while i < MAX_BLOCKS {
        if i >= blocks {
            break;
        }
        s.input[12] = i + 1;
        S::block(s);
        S::seal_block(s, i);
        i += 1;
    }
    if rest != 0 {
        s.input[12] = blocks + 1;
        S::block(s);
        S::seal_rest(s, blocks, rest);
    }
    S::finish(s);
    let at = words as usize & (TEXT_WORDS - 1);
    let mut k = 0;
    while k < 4 {
        s.text[(at + k) & (TEXT_WORDS - 1)] = s.tag[k].to_le();
        k += 1;
    }
    true
}

/// Decrypts the text of [`State::text_len`] bytes, behind which its check value stands. False if that is wrong: the
/// text is then of no use and must not be looked at.
#[inline(always)]
pub fn open<S: Steps>(s: &mut State) -> bool {
    if s.text_len > MAX_TEXT || s.text_len & 3 != 0 {
        return false;
    }
    s.input[12] = 0;
    S::block(s);
    S::begin(s);
    let words = s.text_len >> 2;
    let (blocks, rest) = (words >> 4, words & 15);
    let mut i = 0;
    while i < MAX_BLOCKS {
        if i >= blocks {
            break;
        }
        s.input[12] = i + 1;
        S::block(s);
        S::open_block(s, i);
        i += 1;
    }
    if rest != 0 {
        s.input[12] = blocks + 1;
        S::block(s);
        S::open_rest(s, blocks, rest);
    }
    S::finish(s);
    // All words, whatever the first ones say: the time tells nothing.
    let at = words as usize & (TEXT_WORDS - 1);
    let (mut k, mut difference) = (0, 0);
    while k < 4 {
        difference |= s.text[(at + k) & (TEXT_WORDS - 1)] ^ s.tag[k].to_le();
        k += 1;
    }
    difference == 0
}

/// With the key stream of block 0 there: begins the check value with what is authenticated beside the text.
#[inline(always)]
pub fn begin(s: &mut State) {
    poly::begin(s);
    let mut h = s.sum;
    let aad =
        [u32::from_le(s.aad[0]), u32::from_le(s.aad[1]), u32::from_le(s.aad[2]), u32::from_le(s.aad[3])];
    poly::absorb(s, &mut h, aad, 1);
    s.sum = h;
}

/// Ends it with the lengths (RFC 8439 2.8).
#[inline(always)]
pub fn finish(s: &mut State) {
    let mut h = s.sum;
    poly::absorb(s, &mut h, [s.aad_len, 0, s.text_len, 0], 1);
    s.sum = h;
    poly::finish(s);
}

/// Encrypts a whole block of 64 bytes with the key stream that is there.
#[inline(always)]
pub fn seal_block(s: &mut State, block: u32) {
    whole::<true>(s, block);
}

/// Decrypts one.
#[inline(always)]
pub fn open_block(s: &mut State, block: u32) {
    whole::<false>(s, block);
}

/// Encrypts the first `words` words, 1 to 15, of the last block.
#[inline(always)]
pub fn seal_rest(s: &mut State, block: u32, words: u32) {
    part::<true>(s, block, words);
}

/// Decrypts them.
#[inline(always)]
pub fn open_rest(s: &mut State, block: u32, words: u32) {
    part::<false>(s, block, words);
}

/// The first word of a block. What comes of any number is within the text.
#[inline(always)]
fn first_word(block: u32) -> usize {
    (block as usize & (TEXT_WORDS / 16 - 1)) * 16
}

#[inline(always)]
fn whole<const SEAL: bool>(s: &mut State, block: u32) {
    let at = first_word(block);
    let mut h = s.sum;
    let mut i = 0;
    while i < 16 {
        // What is absorbed is read and written first when sealing, and last when opening: fewer words to keep.
        if SEAL {
            crypt(s, at, i);
        }
        let words =
            [s.text[at + i], s.text[at + i + 1], s.text[at + i + 2], s.text[at + i + 3]].map(u32::from_le);
        poly::absorb(s, &mut h, words, 1);
        if !SEAL {
            crypt(s, at, i);
        }
        i += 4;
    }
    s.sum = h;
}

#[inline(always)]
fn crypt(s: &mut State, at: usize, i: usize) {
    let mut k = i;
    while k < i + 4 {
        s.text[at + k] ^= s.stream[k].to_le();
        k += 1;
    }
}

/// RFC 8439 2.8: the check value takes the text filled up with zeroes to 16 bytes.
#[inline(always)]
fn part<const SEAL: bool>(s: &mut State, block: u32, words: u32) {
    let at = first_word(block);
    let mut h = s.sum;
    let mut i = 0;
    while i < 16 {
        if i as u32 >= words {
            break;
        }
        let mut absorbed = [0; 4];
        let mut k = 0;
        while k < 4 {
            // What is behind the text stays as it is: the check value to compare with.
            if ((i + k) as u32) < words {
                let before = u32::from_le(s.text[at + i + k]);
                let after = before ^ s.stream[i + k];
                s.text[at + i + k] = after.to_le();
                absorbed[k] = if SEAL { after } else { before };
            }
            k += 1;
        }
        poly::absorb(s, &mut h, absorbed, 1);
        i += 4;
    }
    s.sum = h;
}
