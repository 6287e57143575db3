//! Every collision of two exchanges, in every order of what arrives when (RFC 7296 2.8, 2.25), with any one datagram
//! lost or doubled.

use super::orders::{Budget, Collision, Count};
use super::say;
use super::world::{Start, Wish, World};

use Wish::{DeleteChild, DeleteIke, Initiate, NewChild, RekeyChild, RekeyIke};

const ORDER: Budget = Budget { losses: 0, duplicates: 0 };
const LOSS: Budget = Budget { losses: 1, duplicates: 0 };
const TWICE: Budget = Budget { losses: 0, duplicates: 1 };

/// Seeds of which each side has the lowest nonce in some.
const SEEDS: [u64; 2] = [1, 2];

/// What must be there at the end, besides that both sides agree.
fn judge(wishes: [Wish; 2], world: &World) -> Result<(), String> {
    let (a, b) = (&world.pair.a, &world.pair.b);
    let has = |wish| wishes.contains(&wish);
    if has(DeleteIke) {
        return if a.ike.is_none() { Ok(()) } else { Err("the tunnel is still there".to_owned()) };
    }
    if a.ike.is_none() {
        return Err("the IKE SA is gone".to_owned());
    }
    // Also where both made a new one.
    let children = a.children.len();
    if children > 1 || (children == 0 && !has(DeleteChild)) {
        return Err(format!("{children} children"));
    }
    // Two that opened at once are one afterwards: that the other goes is no failure.
    if !(has(Initiate) || a.downs.is_empty() && b.downs.is_empty()) {
        return Err(format!("went down: {:?} {:?}", a.downs, b.downs));
    }
    if !a.failures.is_empty() || !b.failures.is_empty() {
        return Err(format!("failed: {:?} {:?}", a.failures, b.failures));
    }
    Ok(())
}

/// Both ways round, unless that is the same; tells how many orders there were.
fn collide(first: Wish, second: Wish, budgets: &[Budget]) {
    let start = match first {
        Initiate => Start::Nothing,
        NewChild => Start::Childless,
        _ => Start::Tunnel,
    };
    collide_from(start, first, second, budgets);
}

fn collide_from(start: Start, first: Wish, second: Wish, budgets: &[Budget]) {
    let mut rounds = vec![[first, second]];
    if first != second {
        rounds.push([second, first]);
    }
    for budget in budgets {
        let mut sum = Count::default();
        for wishes in &rounds {
            for seed in SEEDS {
                let collision = Collision { seed, wishes: *wishes, start, budget: *budget };
                let count = collision.enumerate(&|world| judge(*wishes, world));
                assert!(count.orders >= 2 && count.ends > 0, "{collision:?} enumerated nothing");
                sum.orders += count.orders;
                sum.states += count.states;
                sum.ends += count.ends;
            }
        }
        let network = match (budget.losses, budget.duplicates) {
            (0, 0) => "in any order",
            (0, _) => "one datagram twice",
            _ => "one datagram lost",
        };
        say(&format!(
            "collision {first:?} with {second:?}{}, {network}: {} orders, {} states, {} ends",
            if start == Start::Rounds { " in two rounds" } else { "" },
            sum.orders,
            sum.states,
            sum.ends
        ));
    }
}

macro_rules! collisions {
    ($($name:ident: $first:ident, $second:ident, [$($budget:ident),+];)+) => { $(
        #[test]
        fn $name() {
            collide($first, $second, &[$($budget),+]);
        }
    )+ };
}

collisions! {
    two_child_rekeys: RekeyChild, RekeyChild, [ORDER, LOSS, TWICE];
    two_ike_rekeys: RekeyIke, RekeyIke, [ORDER, LOSS, TWICE];
    child_rekey_and_ike_rekey: RekeyChild, RekeyIke, [ORDER, LOSS, TWICE];
    child_rekey_and_child_delete: RekeyChild, DeleteChild, [ORDER, LOSS, TWICE];
    child_rekey_and_ike_delete: RekeyChild, DeleteIke, [ORDER, LOSS, TWICE];
    ike_rekey_and_child_delete: RekeyIke, DeleteChild, [ORDER, LOSS, TWICE];
    ike_rekey_and_ike_delete: RekeyIke, DeleteIke, [ORDER, LOSS, TWICE];
    two_child_deletes: DeleteChild, DeleteChild, [ORDER, LOSS, TWICE];
    two_ike_deletes: DeleteIke, DeleteIke, [ORDER, LOSS, TWICE];
    child_delete_and_ike_delete: DeleteChild, DeleteIke, [ORDER, LOSS, TWICE];
    new_child_and_child_rekey: NewChild, RekeyChild, [ORDER, LOSS, TWICE];
    new_child_and_ike_rekey: NewChild, RekeyIke, [ORDER, LOSS, TWICE];
    new_child_and_child_delete: NewChild, DeleteChild, [ORDER, LOSS, TWICE];
    new_child_and_ike_delete: NewChild, DeleteIke, [ORDER, LOSS, TWICE];
    two_new_children: NewChild, NewChild, [ORDER, LOSS, TWICE];
    both_initiate: Initiate, Initiate, [ORDER, LOSS, TWICE];
}

/// With additional key exchanges: what the peer has begun meets what we begin, at any stage of both.
macro_rules! in_rounds {
    ($($name:ident: $first:ident, $second:ident, [$($budget:ident),+];)+) => { $(
        #[test]
        fn $name() {
            collide_from(Start::Rounds, $first, $second, &[$($budget),+]);
        }
    )+ };
}

in_rounds! {
    two_child_rekeys_in_rounds: RekeyChild, RekeyChild, [ORDER, LOSS];
    two_ike_rekeys_in_rounds: RekeyIke, RekeyIke, [ORDER, LOSS];
    child_rekey_and_ike_rekey_in_rounds: RekeyChild, RekeyIke, [ORDER, LOSS];
    child_rekey_and_child_delete_in_rounds: RekeyChild, DeleteChild, [ORDER, LOSS];
    child_rekey_and_ike_delete_in_rounds: RekeyChild, DeleteIke, [ORDER, LOSS];
    ike_rekey_and_child_delete_in_rounds: RekeyIke, DeleteChild, [ORDER, LOSS];
    ike_rekey_and_ike_delete_in_rounds: RekeyIke, DeleteIke, [ORDER, LOSS];
}
