//! The sliding window that tells packets that came before (RFC 6479's layout: a ring of
//! words, so that sliding clears words and shifts nothing).

/// Counters behind the greatest one that are still told apart. Packets of one flow that
/// are later than that are lost.
pub const WINDOW: u64 = 8192;

const WORD_BITS: u64 = 64;
/// One word more than the window has, since the first and the last are rarely whole.
const WORDS: usize = (WINDOW / WORD_BITS) as usize + 1;

/// What was received of one direction under one key.
#[derive(Debug, Clone)]
pub struct Window {
    /// One above the greatest counter seen.
    next: u64,
    seen: [u64; WORDS],
}

impl Default for Window {
    fn default() -> Self {
        Self {
            next: 0,
            seen: [0; WORDS],
        }
    }
}

impl Window {
    /// Whether a counter is new; those too far behind count as seen.
    #[must_use]
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        let (word, bit) = place(counter);
        self.next - counter <= WINDOW && self.seen[word] & bit == 0
    }

    /// Whether nothing was seen yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Notes a counter of an authentic packet; false when it was not new.
    pub fn note(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.next {
            // With no counter seen, nothing has to be cleared.
            let newest = self.next.checked_sub(1).map_or(0, |c| c / WORD_BITS);
            let slid = (counter / WORD_BITS - newest).min(WORDS as u64);
            for word in 0..slid {
                let at = (counter / WORD_BITS - word) % WORDS as u64;
                self.seen[at as usize] = 0;
            }
            self.next = counter.saturating_add(1);
        }
        let (word, bit) = place(counter);
        self.seen[word] |= bit;
        true
    }
}

fn place(counter: u64) -> (usize, u64) {
    let word = counter / WORD_BITS % WORDS as u64;
    (word as usize, 1 << (counter % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_counter_is_new_once_and_never_again_behind_the_window() {
        let mut window = Window::default();
        assert!(window.note(0) && !window.note(0));
        assert!(window.note(WINDOW) && window.note(1));
        assert!(!window.note(0), "behind the window");
        assert!(window.note(10 * WINDOW));
        assert!(!window.note(9 * WINDOW - 1));
        assert!(window.note(9 * WINDOW + 1));
    }

    #[test]
    fn the_last_counter_does_not_overflow() {
        let mut window = Window::default();
        assert!(window.note(u64::MAX - 1));
        assert!(!window.note(u64::MAX - 1));
    }

    proptest! {
        /// The ring of words agrees with a set of everything that was ever seen.
        #[test]
        fn it_tells_what_a_complete_memory_tells(
            steps in prop::collection::vec((any::<bool>(), 0_u64..3 * WINDOW), 1..300)
        ) {
            let (mut window, mut all) = (Window::default(), BTreeSet::new());
            let mut greatest = 0;
            for (jump, distance) in steps {
                let counter = match jump {
                    true => greatest + distance / 64,
                    false => greatest.saturating_sub(distance),
                };
                let behind = all.last().is_some_and(|last| last + 1 - counter.min(*last) > WINDOW);
                let expected = !behind && !all.contains(&counter);
                prop_assert_eq!(window.note(counter), expected, "{}", counter);
                if expected {
                    all.insert(counter);
                    greatest = greatest.max(counter);
                }
            }
        }
    }
}
