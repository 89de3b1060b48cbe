//! What waits to be sent to a client: the session's own bytes, and among them texts that others are sent, too.
//!
//! Always: a shared text is not copied here. It stands at its place among the own bytes and goes to the socket from where it lies,
//! in one write with what is before and behind it. So a change that many are told lies in memory once, most often in the processor's
//! cache. An empty buffer owns next to nothing.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::rc::Rc;

use photondb_proto::wire::response;
use photondb_query::exec::Answer;

/// A buffer larger than this is given back once it is empty.
const KEPT_BYTES: usize = 2 << 10;
/// Own bytes that were sent are thrown away beyond this, although others wait.
const SENT_BYTES_MAX: usize = 1 << 20;
/// Smaller texts are copied: a piece of its own costs more.
pub const SHARED_BYTES_MIN: usize = 4 << 10;
/// Pieces of one write.
pub const PIECES_MAX: usize = 16;

#[derive(Default)]
pub struct Outgoing {
    own: Vec<u8>,
    own_sent: usize,
    /// Each stands before the own byte of that number.
    shared: VecDeque<(usize, Rc<Vec<u8>>)>,
    /// Of the first shared text.
    shared_sent: usize,
    /// Of all shared texts.
    shared_bytes: usize,
}

impl Outgoing {
    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.own.len() - self.own_sent + self.shared_bytes - self.shared_sent
    }

    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// Where replies are added.
    pub fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// Adds an answer, with its items as they lie if they are long.
    pub fn answer(&mut self, token: i64, answer: &Answer) {
        let (kind, notes, profile) = (answer.kind, &answer.notes, answer.profile.as_deref());
        if answer.items.len() < SHARED_BYTES_MIN {
            return response::answer(token, kind, &answer.items, notes, profile, &mut self.own);
        }
        let place = response::answer_around(token, kind, answer.items.len(), notes, profile, &mut self.own);
        self.shared_bytes += answer.items.len();
        self.shared.push_back((place, answer.items.clone()));
    }

    /// The first pieces of what waits, as many as there is room for.
    pub fn pieces(&self) -> ([IoSlice<'_>; PIECES_MAX], usize) {
        let mut pieces = [IoSlice::new(&[]); PIECES_MAX];
        let mut count = 0;
        let mut add = |piece| {
            if count < PIECES_MAX && !<[u8]>::is_empty(piece) {
                pieces[count] = IoSlice::new(piece);
                count += 1;
            }
        };
        let (mut own, mut sent) = (self.own_sent, self.shared_sent);
        for (place, text) in self.shared.iter().take(PIECES_MAX) {
            add(&self.own[own..*place]);
            add(&text[sent..]);
            (own, sent) = (*place, 0);
        }
        if self.shared.len() <= PIECES_MAX {
            add(&self.own[own..]);
        }
        (pieces, count)
    }

    /// So many bytes of what waits have been sent.
    pub fn sent(&mut self, mut count: usize) {
        while count > 0 {
            let end = self.shared.front().map_or(self.own.len(), |(place, _)| *place);
            let own = count.min(end - self.own_sent);
            self.own_sent += own;
            count -= own;
            let Some((_, text)) = self.shared.front() else { break };
            let shared = count.min(text.len() - self.shared_sent);
            self.shared_sent += shared;
            count -= shared;
            if self.shared_sent == text.len() {
                self.shared_bytes -= text.len();
                self.shared_sent = 0;
                self.shared.pop_front();
            }
        }
        if self.is_empty() {
            self.own.clear();
            self.own_sent = 0;
            if self.own.capacity() > KEPT_BYTES {
                *self = Outgoing::default();
            }
        } else if self.own_sent > SENT_BYTES_MAX {
            self.own.drain(..self.own_sent);
            self.shared.iter_mut().for_each(|(place, _)| *place -= self.own_sent);
            self.own_sent = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use photondb_query::exec::AnswerKind;
    use photondb_storage::suite::Random;

    use super::*;

    fn answer(items: String) -> Answer {
        let items = Rc::new(items.into_bytes());
        Answer { kind: AnswerKind::Partial, items, count: 1, notes: vec![1], profile: None }
    }

    #[test]
    fn replies_go_out_in_order_whatever_is_taken_at_a_time() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let (mut outgoing, mut wanted, mut sent) = (Outgoing::default(), Vec::new(), Vec::new());
            while sent.len() < 200_000 {
                for _ in 0..random.below(4) {
                    let bytes = [0, 10, SHARED_BYTES_MIN - 1, SHARED_BYTES_MIN, 20_000];
                    let bytes = bytes[random.below(bytes.len() as u64) as usize];
                    let reply = answer(format!("\"{}\"", "x".repeat(bytes)));
                    let token = random.below(1 << 30) as i64;
                    outgoing.answer(token, &reply);
                    response::answer(token, reply.kind, &reply.items, &reply.notes, None, &mut wanted);
                    if random.one_in(3) {
                        outgoing.own().extend_from_slice(b"other");
                        wanted.extend_from_slice(b"other");
                    }
                }
                let (pieces, count) = outgoing.pieces();
                let bytes = pieces[..count].iter().map(|piece| piece.len()).sum::<usize>();
                let taken = if random.one_in(2) { bytes } else { random.below(bytes as u64 + 1) as usize };
                let all: Vec<u8> = pieces[..count].iter().flat_map(|piece| piece.to_vec()).collect();
                sent.extend_from_slice(&all[..taken]);
                outgoing.sent(taken);
                assert_eq!(outgoing.waiting(), wanted.len() - sent.len(), "seed {seed}");
            }
            assert!(wanted.starts_with(&sent), "seed {seed}");
        }
    }
}
