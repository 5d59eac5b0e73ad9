//! What happens when: a heap by time, and by the order of asking within one millisecond, so that a run is the same each
//! time.
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

struct Due<T> {
    at: u64,
    number: u64,
    what: T,
}

impl<T> PartialEq for Due<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T> Eq for Due<T> {}
impl<T> PartialOrd for Due<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Due<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

pub struct Queue<T> {
    heap: BinaryHeap<Reverse<Due<T>>>,
    next: u64,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Queue { heap: BinaryHeap::new(), next: 0 }
    }
}

impl<T> Queue<T> {
    pub fn push(&mut self, at: u64, what: T) {
        self.next += 1;
        self.heap.push(Reverse(Due { at, number: self.next, what }));
    }
    /// The next one, if it comes no later than `until`.
    pub fn pop(&mut self, until: u64) -> Option<(u64, T)> {
        if self.heap.peek().is_none_or(|Reverse(due)| due.at > until) {
            return None;
        }
        self.heap.pop().map(|Reverse(due)| (due.at, due.what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_time_then_first_come_first_served() {
        let mut queue = Queue::default();
        for (at, what) in [(5, 'd'), (1, 'a'), (5, 'e'), (1, 'b'), (3, 'c'), (9, 'z')] {
            queue.push(at, what);
        }
        let order: String = std::iter::from_fn(|| queue.pop(8)).map(|(_, what)| what).collect();
        assert_eq!((order.as_str(), queue.heap.len()), ("abcde", 1));
    }
}
