//! Shuffle sharding: a flow's hash deals it a hand of queues, of which it uses the shortest. Two flows rarely have the
//! same hand, so a flow that floods its queues leaves the others some.

/// The largest hand.
pub const LARGEST_HAND: usize = 15;

/// Deals `hand` of `deck` queues by a hash. The same hash always gets the same hand, without repeats.
pub fn deal(deck: usize, hand: usize, mut hash: u64) -> impl Iterator<Item = usize> {
    let hand = hand.min(deck).min(LARGEST_HAND);
    let mut left = [0usize; LARGEST_HAND];
    for (i, slot) in left.iter_mut().enumerate().take(hand) {
        let size = (deck - i) as u64;
        // The remainder is smaller than the deck.
        *slot = (hash % size) as usize;
        hash /= size;
    }
    (0..hand).map(move |i| {
        // Each remainder counts the cards that are still in the deck.
        let mut card = left[i];
        for before in left[..i].iter().rev() {
            if card >= *before {
                card += 1;
            }
        }
        card
    })
}

/// The hash of a flow: its schema and what tells it from others.
pub fn hash(schema: &str, distinguisher: &str) -> u64 {
    // FNV-1a, and a finaliser that spreads what it leaves in the low bits.
    let bytes = schema.bytes().chain([0]).chain(distinguisher.bytes());
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn hands_have_no_repeats_and_reach_every_queue() {
        let mut seen = HashSet::new();
        for user in 0..2000 {
            let hash = hash("global-default", &format!("user-{user}"));
            let hand: Vec<usize> = deal(64, 6, hash).collect();
            assert_eq!(hand, deal(64, 6, hash).collect::<Vec<_>>());
            let distinct: HashSet<usize> = hand.iter().copied().collect();
            assert_eq!(distinct.len(), 6, "{hand:?}");
            assert!(hand.iter().all(|q| *q < 64));
            seen.extend(hand);
        }
        assert_eq!(seen.len(), 64);
        assert_eq!(deal(2, 6, 7).count(), 2);
    }
}
