//! Requests and replies between cores: one SPSC ring for each ordered pair, a bell for each core.
//!
//! Always: a core has at most [`CREDITS`] requests outstanding at a peer, so the ring towards a peer never holds more than
//! its own requests and the replies to the peer's: [`RING_MESSAGES`] is the sum, and a push cannot fail. So two full rings
//! can never wait for each other; who is out of credit waits on its own side, and sessions stop reading meanwhile.
//! A core drains its rings once per turn of its loop and goes on doing so until a turn brings nothing; only then does it
//! ask to be rung, and only the first message after that pays for a wake.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Poll, Waker};

use atomic_waker::AtomicWaker;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::env::Env;

/// Requests a core may have outstanding at one peer. Enough to keep a peer busy for milliseconds.
pub const CREDITS: usize = 1024;
/// Places in a ring: a core's requests and its replies to the peer's.
const RING_MESSAGES: usize = 2 * CREDITS;

/// What travels: `Q` one way, `A` back.
enum Message<Q, A> {
    Request { id: u32, body: Q },
    Reply { id: u32, body: A },
}

/// Wakes a core that has found its rings empty.
#[derive(Default)]
struct Bell {
    asleep: AtomicBool,
    waker: AtomicWaker,
}

impl Bell {
    /// Called after a push.
    fn ring(&self) {
        // Pairs with the fence in `Mesh::take_or_sleep`: either we see the flag, or the sleeper sees our message.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            self.waker.wake();
        }
    }
}

/// The sending end of a ring and its reader's bell.
type Outgoing<Q, A> = (Producer<Message<Q, A>>, Arc<Bell>);
/// The receiving ends of a core's rings, by peer.
type Incoming<Q, A> = Vec<Option<Consumer<Message<Q, A>>>>;

/// One core's ends of all its rings, made before the core's thread is.
pub struct Endpoint<Q, A> {
    core: u16,
    bell: Arc<Bell>,
    /// By peer; none towards itself.
    outgoing: Vec<Option<Outgoing<Q, A>>>,
    incoming: Incoming<Q, A>,
}

/// The rings of `cores` cores.
pub fn endpoints<Q, A>(cores: u16) -> Vec<Endpoint<Q, A>> {
    let bells: Vec<Arc<Bell>> = (0..cores).map(|_| Arc::default()).collect();
    let mut endpoints: Vec<Endpoint<Q, A>> = (0..cores)
        .map(|core| Endpoint {
            core,
            bell: bells[usize::from(core)].clone(),
            outgoing: (0..cores).map(|_| None).collect(),
            incoming: (0..cores).map(|_| None).collect(),
        })
        .collect();
    for from in 0..usize::from(cores) {
        for to in (0..usize::from(cores)).filter(|to| *to != from) {
            let (producer, consumer) = RingBuffer::new(RING_MESSAGES);
            endpoints[from].outgoing[to] = Some((producer, bells[to].clone()));
            endpoints[to].incoming[from] = Some(consumer);
        }
    }
    endpoints
}

/// A core's mailbox.
pub struct Mesh<Q, A> {
    core: u16,
    bell: Arc<Bell>,
    peers: Vec<Option<RefCell<Peer<Q, A>>>>,
    incoming: RefCell<Incoming<Q, A>>,
    /// Tasks that wait for credit at some peer.
    starved: Cell<usize>,
    /// Sessions that stopped reading because somebody is starved.
    paused: RefCell<Vec<Waker>>,
}

struct Peer<Q, A> {
    producer: Producer<Message<Q, A>>,
    bell: Arc<Bell>,
    credits: usize,
    /// Who waits for credit, first come first served.
    waiting: VecDeque<Waker>,
    /// Outstanding requests by id.
    pending: Vec<Pending<A>>,
    free: Vec<u32>,
}

enum Pending<A> {
    Free,
    Waiting(Option<Waker>),
    /// Does what follows.
    Then(Box<dyn FnOnce(A)>),
    Answered(A),
    /// Its caller is gone; the reply is dropped when it comes.
    Abandoned,
}

impl<Q: 'static, A: 'static> Mesh<Q, A> {
    pub fn new(endpoint: Endpoint<Q, A>) -> Rc<Mesh<Q, A>> {
        let peer = |(producer, bell)| {
            RefCell::new(Peer {
                producer,
                bell,
                credits: CREDITS,
                waiting: VecDeque::new(),
                pending: Vec::new(),
                free: Vec::new(),
            })
        };
        Rc::new(Mesh {
            core: endpoint.core,
            bell: endpoint.bell,
            peers: endpoint.outgoing.into_iter().map(|end| end.map(peer)).collect(),
            incoming: RefCell::new(endpoint.incoming),
            starved: Cell::new(0),
            paused: RefCell::new(Vec::new()),
        })
    }

    pub fn core(&self) -> u16 {
        self.core
    }

    pub fn cores(&self) -> u16 {
        self.peers.len() as u16
    }

    fn peer(&self, core: u16) -> &RefCell<Peer<Q, A>> {
        self.peers[usize::from(core)].as_ref().expect("a core does not send to itself")
    }

    /// Asks a peer and waits for its reply, and before that for credit.
    pub async fn request(&self, peer: u16, body: Q) -> A {
        self.credit(peer).await;
        let id = {
            let mut peer = self.peer(peer).borrow_mut();
            let id = peer.reserve(Pending::Waiting(None));
            peer.send(Message::Request { id, body });
            id
        };
        let mut guard = Outstanding { mesh: self, peer, id, done: false };
        let answer = poll_fn(|context| {
            let mut peer = self.peer(peer).borrow_mut();
            match std::mem::replace(&mut peer.pending[id as usize], Pending::Free) {
                Pending::Answered(body) => Poll::Ready(body),
                Pending::Waiting(_) => {
                    peer.pending[id as usize] = Pending::Waiting(Some(context.waker().clone()));
                    Poll::Pending
                }
                Pending::Free | Pending::Abandoned | Pending::Then(_) => {
                    unreachable!("a request waits until it is answered")
                }
            }
        })
        .await;
        guard.done = true;
        self.peer(peer).borrow_mut().free.push(id);
        answer
    }

    /// Whether there is credit at a peer.
    pub fn may_ask(&self, peer: u16) -> bool {
        self.peer(peer).borrow().credits > 0
    }

    /// Asks a peer at which there is credit, without a task that waits: `then` is called with the reply, and does not look at the
    /// depths of the rings.
    pub fn ask(&self, peer: u16, body: Q, then: impl FnOnce(A) + 'static) {
        let mut peer = self.peer(peer).borrow_mut();
        peer.credits = peer.credits.checked_sub(1).expect("there is credit");
        let id = peer.reserve(Pending::Then(Box::new(then)));
        peer.send(Message::Request { id, body });
    }

    /// Takes one credit of `peer`.
    async fn credit(&self, peer: u16) {
        let mut starving = Starving { mesh: self, peer, counted: false };
        poll_fn(|context| {
            let mut peer = self.peer(peer).borrow_mut();
            if peer.credits > 0 {
                peer.credits -= 1;
                return Poll::Ready(());
            }
            peer.waiting.push_back(context.waker().clone());
            starving.count();
            Poll::Pending
        })
        .await;
    }

    /// Replies to a request of `peer`. Never waits.
    pub fn reply(&self, peer: u16, id: u32, body: A) {
        self.peer(peer).borrow_mut().send(Message::Reply { id, body });
    }

    /// Hands requests to `handle` (peer, id, request) for ever, and replies to those who wait for them.
    pub async fn serve(self: Rc<Self>, env: impl Env, handle: impl Fn(u16, u32, Q)) {
        let mut requests = Vec::new();
        loop {
            env.heard(self.take_or_sleep(&mut requests)).await;
            for (peer, id, body) in requests.drain(..) {
                handle(peer, id, body);
            }
            env.next_turn().await;
        }
    }

    /// Takes everything that has come, and sleeps if that is nothing.
    async fn take_or_sleep(&self, requests: &mut Vec<(u16, u32, Q)>) {
        poll_fn(|context| {
            if self.take(requests) {
                return Poll::Ready(());
            }
            self.bell.waker.register(context.waker());
            self.bell.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if self.take(requests) {
                self.bell.asleep.store(false, Ordering::Relaxed);
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Whether anything had come.
    fn take(&self, requests: &mut Vec<(u16, u32, Q)>) -> bool {
        let mut any = false;
        for (core, ring) in self.incoming.borrow_mut().iter_mut().enumerate() {
            let Some(ring) = ring else { continue };
            while let Ok(message) = ring.pop() {
                any = true;
                match message {
                    Message::Request { id, body } => requests.push((core as u16, id, body)),
                    Message::Reply { id, body } => self.answered(core as u16, id, body),
                }
            }
        }
        any
    }

    fn answered(&self, core: u16, id: u32, body: A) {
        let mut peer = self.peer(core).borrow_mut();
        peer.credits += 1;
        let waiting = peer.waiting.pop_front();
        let place = &mut peer.pending[id as usize];
        match std::mem::replace(place, Pending::Free) {
            Pending::Waiting(waker) => {
                *place = Pending::Answered(body);
                waker.into_iter().for_each(Waker::wake);
            }
            Pending::Then(then) => {
                peer.free.push(id);
                drop(peer);
                then(body);
            }
            Pending::Abandoned => peer.free.push(id),
            Pending::Free | Pending::Answered(_) => unreachable!("one reply for each request"),
        }
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Whether some task waits for credit: new work must not be taken in. Registers `waker` for the end of that.
    pub fn is_starved(&self, waker: &Waker) -> bool {
        let starved = self.starved.get() > 0;
        if starved {
            let mut paused = self.paused.borrow_mut();
            if !paused.iter().any(|paused| paused.will_wake(waker)) {
                paused.push(waker.clone());
            }
        }
        starved
    }

    /// Messages waiting in the rings towards this core, by sender.
    pub fn depths(&self) -> Vec<u64> {
        let rings = self.incoming.borrow();
        rings.iter().map(|ring| ring.as_ref().map_or(0, |ring| ring.slots() as u64)).collect()
    }
}

impl<Q, A> Peer<Q, A> {
    fn reserve(&mut self, pending: Pending<A>) -> u32 {
        match self.free.pop() {
            Some(id) => {
                self.pending[id as usize] = pending;
                id
            }
            None => {
                self.pending.push(pending);
                self.pending.len() as u32 - 1
            }
        }
    }

    fn send(&mut self, message: Message<Q, A>) {
        assert!(self.producer.push(message).is_ok(), "credits leave room in the ring");
        self.bell.ring();
    }
}

/// Leaves word when the caller of a request goes away before its reply.
struct Outstanding<'a, Q: 'static, A: 'static> {
    mesh: &'a Mesh<Q, A>,
    peer: u16,
    id: u32,
    done: bool,
}

impl<Q, A> Drop for Outstanding<'_, Q, A> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let mut peer = self.mesh.peers[usize::from(self.peer)].as_ref().expect("it was asked").borrow_mut();
        let place = self.id as usize;
        match std::mem::replace(&mut peer.pending[place], Pending::Abandoned) {
            Pending::Waiting(_) | Pending::Abandoned => {}
            Pending::Then(_) => unreachable!("nobody waits for it"),
            Pending::Answered(_) | Pending::Free => {
                peer.pending[place] = Pending::Free;
                peer.free.push(self.id);
            }
        }
    }
}

/// Counts one who waits for credit, until it has it or gives up.
struct Starving<'a, Q: 'static, A: 'static> {
    mesh: &'a Mesh<Q, A>,
    peer: u16,
    counted: bool,
}

impl<Q, A> Starving<'_, Q, A> {
    fn count(&mut self) {
        if !self.counted {
            self.counted = true;
            self.mesh.starved.set(self.mesh.starved.get() + 1);
        }
    }
}

impl<Q, A> Drop for Starving<'_, Q, A> {
    fn drop(&mut self) {
        if !self.counted {
            return;
        }
        self.mesh.starved.set(self.mesh.starved.get() - 1);
        // Who gives up may have been woken for a credit that the next in line can use.
        let mut peer = self.mesh.peers[usize::from(self.peer)].as_ref().expect("it was asked").borrow_mut();
        let next = if peer.credits > 0 { peer.waiting.pop_front() } else { None };
        drop(peer);
        next.into_iter().for_each(Waker::wake);
        if self.mesh.starved.get() == 0 {
            self.mesh.paused.borrow_mut().drain(..).for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cures;
    use crate::uring::{UringEnv, run};
    use futures_util::future::join_all;

    const TASKS: u64 = 3 * CREDITS as u64;
    const REQUESTS: u64 = 20;

    /// Every task of a core asks each peer again and again; answers are the questions plus the peer's number.
    async fn ask_all(
        env: UringEnv,
        endpoint: Endpoint<u64, u64>,
        ended: flume::Sender<u16>,
        all: flume::Receiver<()>,
    ) {
        let mesh = Mesh::new(endpoint);
        let answering = mesh.clone();
        env.spawn(mesh.clone().serve(env.clone(), move |peer, id, question| {
            answering.reply(peer, id, question + u64::from(answering.core()));
        }));
        let peers: Vec<u16> = (0..mesh.cores()).filter(|core| *core != mesh.core()).collect();
        let task = |task: u64| {
            let (mesh, peers) = (&mesh, &peers);
            async move {
                for question in (0..REQUESTS).map(|turn| task * 1000 + turn) {
                    for peer in peers {
                        let answer = if question % 2 == 0 && mesh.may_ask(*peer) {
                            let (sender, answer) = flume::bounded(1);
                            mesh.ask(*peer, question, move |answer| {
                                sender.send(answer).expect("it is waited for");
                            });
                            answer.recv_async().await.expect("a peer answers")
                        } else {
                            mesh.request(*peer, question).await
                        };
                        assert_eq!(answer, question + u64::from(*peer));
                    }
                }
            }
        };
        join_all((0..TASKS).map(task)).await;
        // Peers may still ask: go only when all are done.
        let _ = ended.send(mesh.core());
        let _ = all.recv_async().await;
        assert_eq!((mesh.starved.get(), mesh.depths().iter().sum::<u64>()), (0, 0));
    }

    #[test]
    fn more_requests_than_credits_are_all_answered_between_three_cores() {
        let (ended, done) = flume::bounded(3);
        let (all, wait) = flume::bounded::<()>(0);
        let threads: Vec<_> = endpoints(3)
            .into_iter()
            .map(|endpoint| {
                let (ended, wait) = (ended.clone(), wait.clone());
                let cures = Cures { device_probe: false, ..Cures::default() };
                std::thread::spawn(move || {
                    run(None, std::path::Path::new("."), cures, |env| ask_all(env, endpoint, ended, wait))
                })
            })
            .collect();
        for _ in 0..3 {
            done.recv_timeout(std::time::Duration::from_secs(50)).expect("every core gets its answers");
        }
        drop(all);
        for thread in threads {
            thread.join().expect("no core panics").expect("executors can be made");
        }
    }
}
