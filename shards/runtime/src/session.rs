//! One client: its bytes in and out, its tokens, its cursors.
//!
//! Always: a session lives and dies on its core. One task reads and writes its socket; a query that cannot be answered while
//! its frame is read gets a task of its own and leaves its reply in the session's send buffer, so the replies of one turn go
//! out in one write. An idle session owns no buffers. What a client has in flight is bounded ([`limits::QUERIES_IN_FLIGHT_MAX`]
//! queries, [`SEND_BYTES_MAX`] unread bytes): beyond it we stop reading its socket until it takes its replies.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::term::large::{self, LargeQuery};
use photondb_proto::term::parse::QueryMessage;
use photondb_proto::wire::frame::{FrameDecoder, HEADER_BYTES, LargeFrame, Oversized};
use photondb_proto::wire::handshake::{Handshake, HandshakeSecrets, Progress, Protocol};
use photondb_proto::wire::response;
use photondb_query::exec::Answer;

use crate::access::Access;
use crate::admission::{Lease, Watchers};
use crate::core::{Core, add};
use crate::cursor::{self, Cursor};
use crate::env::{Env, Stream, StreamEnd};
use crate::hot::{self, Hot};
use crate::outgoing::{Outgoing, SHARED_BYTES_MIN};

/// Replies that wait for the client to read them; beyond it nothing new is begun for it.
const SEND_BYTES_MAX: usize = 1 << 20;
/// Batches of one session that gather rows at the same time; what each gathers is bounded by its batch.
const GATHERING_MAX: usize = 16;
/// A receive buffer larger than this is given back once it is empty.
const RECEIVE_KEPT_BYTES: usize = 1 << 10;
/// Receive buffers up to this are part of what every connection may cost; larger ones are leased from the core's budget.
const UNLEASED_BYTES: usize = 64 << 10;
/// A turn that took longer is followed by one of the others.
const LONG_TURN: Duration = Duration::from_micros(300);
/// A query of so many bytes takes a part of a millisecond to read and to begin: others have their turn between the two.
const LONG_QUERY_BYTES: usize = 16 << 10;
/// Reads of one session before the others have their turn.
const READS_A_TURN: usize = 8;
/// A peer that has not proved who it is within this is sent away.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

/// What a session's tasks share.
pub struct Session<E: Env> {
    pub core: Rc<Core<E>>,
    pub access: Access,
    pub peer: Option<SocketAddr>,
    protocol: Protocol,
    /// Replies that could not be written at once.
    send: RefCell<Outgoing>,
    /// What waits in `send` beyond [`SEND_BYTES_MAX`] counts against the core's budget.
    send_lease: RefCell<Lease>,
    /// The task that owns the socket.
    waker: RefCell<Option<Waker>>,
    /// Started queries by token, until their last reply.
    pub cursors: RefCell<HashMap<i64, Rc<Cursor>>>,
    /// Batches being computed.
    in_flight: Cell<usize>,
    /// Those of them that only wait for changes.
    waiting_idly: Cell<usize>,
    /// A long query is read or was begun just now: those behind it wait, so that queries begin in the order they came.
    parsing: Cell<bool>,
    /// Queries without a reply that are not done, and who waits for them.
    noreply: Cell<usize>,
    pub noreply_watchers: Watchers,
    /// Tasks that wait for the client to read.
    room_watchers: Watchers,
    /// Batches that gather rows, and who waits to.
    gathering: Cell<usize>,
    gathering_watchers: Watchers,
    closed: Cell<bool>,
}

/// Serves a connection to its end.
pub async fn serve<E: Env>(core: Rc<Core<E>>, socket: impl Stream, peer: Option<SocketAddr>) {
    let figures = &core.figures;
    add(&figures.connections_open, 1);
    add(&figures.connections_total, 1);
    let open = OpenConnection(&core);
    tracing::debug!(core = core.number, ?peer, "connection");
    let mut socket = socket;
    // The handshake's state is large and short-lived; an idle session does not carry it.
    let greeted = {
        let timeout = async {
            core.env.sleep(HANDSHAKE_TIMEOUT).await;
            None
        };
        Box::pin(futures_lite::future::or(greet(&core, &mut socket), timeout)).await
    };
    if let Some((protocol, user, rest)) = greeted {
        let session = Rc::new(Session {
            core: core.clone(),
            access: Access::new(user.into()),
            peer,
            protocol,
            send: RefCell::default(),
            send_lease: RefCell::new(core.budget.lease()),
            waker: RefCell::default(),
            cursors: RefCell::default(),
            in_flight: Cell::new(0),
            waiting_idly: Cell::new(0),
            parsing: Cell::new(false),
            noreply: Cell::new(0),
            noreply_watchers: Watchers::default(),
            room_watchers: Watchers::default(),
            gathering: Cell::new(0),
            gathering_watchers: Watchers::default(),
            closed: Cell::new(false),
        });
        let mut receive =
            Receive { decoder: FrameDecoder::default(), lease: None, discard_bytes: 0, ended: false };
        receive.decoder.push(&rest);
        drop(rest);
        let mut drained = std::pin::pin!(core.drain_watchers.until(|| core.draining.get()));
        let mut is_drained = false;
        let mut rest: Option<Pin<Box<dyn Future<Output = ()>>>> = None;
        poll_fn(|context| {
            // Only to be woken when draining begins.
            is_drained = is_drained || drained.as_mut().poll(context).is_ready();
            loop {
                if let Some(rest) = &mut rest {
                    ready!(rest.as_mut().poll(context));
                }
                rest = None;
                let began = core.env.elapsed();
                let turned = session.turn(context, &mut socket, &mut receive);
                let held = core.env.elapsed().saturating_sub(began);
                if turned.is_ready() || held < LONG_TURN {
                    return turned;
                }
                // It may be that we were held ourselves: no rest, which would be behind those of others.
                rest = Some(Box::pin(core.env.next_turn()));
            }
        })
        .await;
        session.close();
    }
    drop(open);
}

/// Counts a connection until it ends.
struct OpenConnection<'a, E: Env>(&'a Rc<Core<E>>);

impl<E: Env> Drop for OpenConnection<'_, E> {
    fn drop(&mut self) {
        let open = &self.0.figures.connections_open;
        open.set(open.get() - 1);
        self.0.end_watchers.wake_all();
    }
}

// ---------------------------------------------------------------- handshake

/// Goes through the handshake; gives the protocol and the bytes behind it, or `None` when the peer is to go.
async fn greet<E: Env>(core: &Rc<Core<E>>, socket: &mut impl Stream) -> Option<(Protocol, String, Vec<u8>)> {
    let mut secrets = HandshakeSecrets {
        nonce: Default::default(),
        salt_secret: core.catalog().server.salt_secret,
        iterations: core.password_iterations,
    };
    core.env.random(&mut secrets.nonce);
    let mut handshake = Handshake::new(secrets);
    let mut out = Vec::new();
    let mut progress = Progress::NeedBytes;
    loop {
        progress = match progress {
            Progress::NeedBytes => {
                write_all(socket, &out).await.ok()?;
                out.clear();
                let mut bytes = [0; 1024];
                let count = read_some(core, socket, &mut bytes).await?;
                add(&core.figures.bytes_received, count as u64);
                handshake.push(&bytes[..count], &mut out)
            }
            Progress::NeedCredential { user } => {
                let credential = core.catalog().credential(&user).cloned();
                handshake.credential(credential, &mut out)
            }
            Progress::NeedKeyCheck { key } => {
                let right = key_is_right(core, key).await;
                handshake.key_checked(right, &mut out)
            }
            Progress::Done { protocol, user } => {
                write_all(socket, &out).await.ok()?;
                return Some((protocol, user, handshake.into_rest()));
            }
            Progress::Failed => {
                let _ = write_all(socket, &out).await;
                return None;
            }
        };
    }
}

/// Reads while the core takes new work; `None` at the end of the stream or of the core.
async fn read_some<E: Env>(core: &Rc<Core<E>>, socket: &mut impl Stream, bytes: &mut [u8]) -> Option<usize> {
    let read = async {
        match poll_fn(|context| socket.poll_read(context, bytes)).await {
            Ok(count) if count > 0 => Some(count),
            Ok(_) | Err(StreamEnd) => None,
        }
    };
    let drained = async {
        core.drain_watchers.until(|| core.draining.get()).await;
        None
    };
    futures_lite::future::or(drained, read).await
}

async fn write_all(socket: &mut impl Stream, bytes: &[u8]) -> Result<(), StreamEnd> {
    let mut written = 0;
    while written < bytes.len() {
        let count = poll_fn(|context| socket.poll_write(context, &bytes[written..])).await?;
        if count == 0 {
            return Err(StreamEnd);
        }
        written += count;
    }
    Ok(())
}

/// Whether `key` is the admin's password. What was found out once is remembered while the password stays.
async fn key_is_right<E: Env>(core: &Rc<Core<E>>, key: Vec<u8>) -> bool {
    let Some(credential) = core.catalog().credential("admin").cloned() else { return false };
    if credential.password_is_empty || key.is_empty() {
        return credential.password_is_empty && key.is_empty();
    }
    if core.checked_keys.borrow().get(&key) == Some(&credential) {
        return true;
    }
    let (known, given) = (credential.clone(), key.clone());
    if core.slowly(move || known.verify(&given)).await != Some(true) {
        return false;
    }
    let mut checked = core.checked_keys.borrow_mut();
    // Only the admin has such a key: what is there belongs to an older password.
    checked.clear();
    checked.insert(key, credential);
    true
}

// ---------------------------------------------------------------- queries

/// A session's incoming side.
struct Receive {
    decoder: FrameDecoder,
    /// Held while the receive buffer is large.
    lease: Option<Lease>,
    /// What is left of a frame that was refused: read and thrown away, so that the client gets to read why.
    discard_bytes: u64,
    /// No more queries will be taken.
    ended: bool,
}

impl<E: Env> Session<E> {
    /// One turn of the session: takes queries, sends replies, until the connection ends.
    fn turn(
        self: &Rc<Self>,
        context: &mut Context<'_>,
        socket: &mut impl Stream,
        receive: &mut Receive,
    ) -> Poll<()> {
        self.remember(context.waker());
        for _ in 0..READS_A_TURN {
            let held_back = self.take_frames(receive, context.waker());
            if self.flush(context, socket).is_err() {
                return Poll::Ready(());
            }
            if held_back && self.takes_more() {
                // Sending made room for queries that have come already: no event will tell of them.
                continue;
            }
            if self.is_over(receive) {
                return Poll::Ready(());
            }
            if !self.reads_on(receive) || self.core.mesh.is_starved(context.waker()) {
                return Poll::Pending;
            }
            match self.read(context, socket, receive) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(StreamEnd)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn remember(&self, waker: &Waker) {
        let mut kept = self.waker.borrow_mut();
        match &*kept {
            Some(kept) if kept.will_wake(waker) => {}
            Some(_) | None => *kept = Some(waker.clone()),
        }
    }

    /// Whether another query may begin.
    fn takes_more(&self) -> bool {
        let in_flight_max = match self.protocol {
            Protocol::V0_3 => 1,
            Protocol::V0_4 | Protocol::V1_0 => limits::QUERIES_IN_FLIGHT_MAX,
        };
        self.in_flight.get() - self.waiting_idly.get() < in_flight_max
            && self.has_room()
            && !self.parsing.get()
            && !self.core.draining.get()
    }

    fn reads_on(&self, receive: &Receive) -> bool {
        if receive.ended { receive.discard_bytes > 0 } else { self.takes_more() }
    }

    fn has_room(&self) -> bool {
        self.send.borrow().waiting() < SEND_BYTES_MAX
    }

    /// Whether all is said: the client is gone or refused, or the core drains, and nothing is left to send.
    fn is_over(&self, receive: &Receive) -> bool {
        let refused = receive.ended && receive.discard_bytes == 0;
        // Who waits for changes is told when the core drains, and nothing else would end its wait.
        let open = self.in_flight.get() - if refused { self.waiting_idly.get() } else { 0 };
        (refused || self.core.draining.get()) && open == 0 && self.send.borrow().is_empty()
    }

    fn read(
        &self,
        context: &mut Context<'_>,
        socket: &mut impl Stream,
        receive: &mut Receive,
    ) -> Poll<Result<(), StreamEnd>> {
        let mut scratch = self.core.scratch.borrow_mut();
        match socket.poll_read(context, &mut scratch) {
            Poll::Pending => {
                if receive.decoder.held_bytes() > RECEIVE_KEPT_BYTES {
                    receive.decoder.release();
                }
                Poll::Pending
            }
            Poll::Ready(Err(end)) => Poll::Ready(Err(end)),
            Poll::Ready(Ok(0)) => Poll::Ready(Err(StreamEnd)),
            Poll::Ready(Ok(count)) => {
                add(&self.core.figures.bytes_received, count as u64);
                let discarded = receive.discard_bytes.min(count as u64);
                receive.discard_bytes -= discarded;
                if !receive.ended {
                    receive.decoder.push(&scratch[discarded as usize..count]);
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Begins the queries that have come whole. Tells whether it stopped before it had looked at all of them.
    fn take_frames(self: &Rc<Self>, receive: &mut Receive, waker: &Waker) -> bool {
        if receive.ended {
            return false;
        }
        let mut held_back = true;
        // Replies of queries that are answered at once are gathered here, without a buffer of the session's own.
        let mut out = self.core.reply_scratch.take();
        while out.len() < SEND_BYTES_MAX && self.takes_more() && !self.core.mesh.is_starved(waker) {
            match receive.decoder.next_frame() {
                Ok(Some(frame)) => self.dispatch(frame.token, frame.query, &mut out),
                Ok(None) => match receive.decoder.next_large() {
                    Some(frame) => {
                        receive.lease = None;
                        self.dispatch_large(frame, &mut out);
                    }
                    None => {
                        held_back = false;
                        break;
                    }
                },
                Err(oversized) => {
                    response::error(oversized.token, &oversized.error(), &mut out);
                    receive.refuse(oversized);
                    break;
                }
            }
        }
        if let Err(error) = receive.hold(&self.core) {
            match receive.decoder.give_up_large() {
                Some((token, missing)) => {
                    response::error(token, &too_large_to_hold(&error), &mut out);
                    receive.discard_bytes = missing as u64;
                    receive.lease = None;
                }
                None => {
                    tracing::warn!(%error, "a connection was closed for want of memory");
                    receive.ended = true;
                }
            }
        }
        if !out.is_empty() {
            self.send.borrow_mut().own().extend_from_slice(&out);
            out.clear();
        }
        self.core.reply_scratch.replace(out);
        held_back
    }

    /// Writes what waits, as far as the client takes it.
    fn flush(&self, context: &mut Context<'_>, socket: &mut impl Stream) -> Result<(), StreamEnd> {
        let mut send = self.send.borrow_mut();
        while !send.is_empty() {
            let (pieces, count) = send.pieces();
            match socket.poll_write_pieces(context, &pieces[..count]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(StreamEnd)) => return Err(StreamEnd),
                Poll::Ready(Ok(count)) => {
                    add(&self.core.figures.bytes_sent, count as u64);
                    send.sent(count);
                }
                Poll::Pending => break,
            }
        }
        let waiting = send.waiting();
        drop(send);
        // Replies that need no permission may have come on top; then the lease stays as it was until they are sent.
        let _ = self.lease_send(waiting);
        if self.has_room() {
            self.room_watchers.wake_all();
        }
        Ok(())
    }

    /// One query. Its reply goes to `out` if it is known at once.
    fn dispatch(self: &Rc<Self>, token: i64, query: &mut [u8], out: &mut Vec<u8>) {
        if query.len() < LONG_QUERY_BYTES {
            let message = self.core.parser.borrow_mut().parse(query);
            return self.begin_message(token, message, out);
        }
        let began = self.core.env.elapsed();
        let message = self.core.parser.borrow_mut().parse(query);
        let core = self.core.clone();
        let held = core.env.elapsed() - began;
        self.begin_later(token, async move {
            core.rest(held).await;
            Some(message)
        });
    }

    /// A query that an ordinary thread parses.
    fn dispatch_large(self: &Rc<Self>, frame: LargeFrame, out: &mut Vec<u8>) {
        let LargeFrame { token, pieces, bytes, .. } = frame;
        let mut lease = self.core.budget.lease();
        if let Err(error) = lease.set(bytes as u64) {
            return response::error(token, &too_large_to_hold(&error), out);
        }
        let core = self.core.clone();
        self.begin_later(token, async move {
            let parsed = core.slowly(move || large::parse(pieces)).await;
            drop(lease);
            parsed.map(LargeQuery::into_message)
        });
    }

    /// A query that others go before. Those that its client sent behind it wait.
    fn begin_later(
        self: &Rc<Self>,
        token: i64,
        parsed: impl Future<Output = Option<Result<QueryMessage, QueryError>>> + 'static,
    ) {
        self.parsing.set(true);
        let (session, guard) = (self.clone(), self.begin());
        self.core.env.spawn(async move {
            let message = parsed.await;
            let began = session.core.env.elapsed();
            // Whoever has gone waits for no reply; what it wanted without one is still done.
            let is_wanted = match &message {
                Some(Ok(QueryMessage::Start { options, .. })) => {
                    !session.closed.get() || cursor::asks_noreply(options)
                }
                Some(Ok(_) | Err(_)) => !session.closed.get(),
                None => false,
            };
            if let (true, Some(message)) = (is_wanted, message) {
                let mut out = Vec::new();
                session.begin_message(token, message, &mut out);
                session.reply(|own| own.extend_from_slice(&out));
            }
            // What comes behind it waits until others had their part of the core.
            session.core.rest(session.core.env.elapsed() - began).await;
            session.parsing.set(false);
            drop(guard);
        });
    }

    fn begin_message(
        self: &Rc<Self>,
        token: i64,
        message: Result<QueryMessage, QueryError>,
        out: &mut Vec<u8>,
    ) {
        match message {
            Ok(QueryMessage::Start { term, options }) => {
                if self.cursors.borrow().contains_key(&token) {
                    return duplicate(token, out);
                }
                match hot::point_get(&self.core, &self.access, token, &term, &options, out) {
                    Hot::Answered => {}
                    Hot::Elsewhere(read) => cursor::read_elsewhere(self, token, term, options, read),
                    Hot::No => match hot::point_write(&self.core, &term, &options) {
                        Some(write) => cursor::start_write(self, token, term, write, out),
                        None => cursor::start(self, token, term, options, out),
                    },
                }
            }
            Ok(QueryMessage::Continue) => match self.cursor(token) {
                Some(cursor) => cursor::resume(self, &cursor, out),
                None => not_in_cache(token, out),
            },
            Ok(QueryMessage::Stop) => match self.cursor(token) {
                Some(cursor) => cursor::stop(self, &cursor, out),
                None => not_in_cache(token, out),
            },
            Ok(QueryMessage::NoreplyWait) => {
                if self.cursors.borrow().contains_key(&token) {
                    return duplicate(token, out);
                }
                self.wait_noreply(token, out);
            }
            Ok(QueryMessage::ServerInfo) => {
                let catalog = self.core.catalog();
                response::server_info(token, &catalog.server_id(), &catalog.server.name, out);
            }
            Err(error) => {
                add(&self.core.figures.query_errors, 1);
                response::error(token, &error, out);
            }
        }
    }

    fn cursor(&self, token: i64) -> Option<Rc<Cursor>> {
        self.cursors.borrow().get(&token).cloned()
    }

    fn wait_noreply(self: &Rc<Self>, token: i64, out: &mut Vec<u8>) {
        if self.noreply.get() == 0 {
            return response::wait_complete(token, out);
        }
        let session = self.clone();
        let guard = self.begin();
        self.core.env.spawn(async move {
            session.noreply_watchers.until(|| session.noreply.get() == 0 || session.closed.get()).await;
            session.reply(|out| response::wait_complete(token, out));
            drop(guard);
        });
    }

    // ------------------------------------------------------------ for the queries' tasks

    /// Makes sure that `bytes` more may wait to be sent.
    ///
    /// # Errors
    /// RESOURCE_LIMIT when the core's budget does not allow it.
    pub fn hold(&self, bytes: usize) -> Result<(), QueryError> {
        self.lease_send(self.send.borrow().waiting() + bytes)
    }

    fn lease_send(&self, bytes: usize) -> Result<(), QueryError> {
        self.send_lease.borrow_mut().set(bytes.saturating_sub(SEND_BYTES_MAX) as u64)
    }

    /// Leaves a reply to be sent.
    pub fn reply(&self, write: impl FnOnce(&mut Vec<u8>)) {
        if self.closed.get() {
            return;
        }
        write(self.send.borrow_mut().own());
        self.wake();
    }

    /// Leaves an answer to be sent.
    pub fn reply_answer(&self, token: i64, answer: &Answer) {
        if self.closed.get() {
            return;
        }
        self.send.borrow_mut().answer(token, answer);
        self.wake();
    }

    /// Adds an answer to the replies in `out`, which it may move to the send buffer.
    pub fn answer(&self, token: i64, answer: &Answer, out: &mut Vec<u8>) {
        if answer.items.len() >= SHARED_BYTES_MIN {
            let mut send = self.send.borrow_mut();
            send.own().append(out);
            return send.answer(token, answer);
        }
        response::answer(token, answer.kind, &answer.items, &answer.notes, answer.profile.as_deref(), out);
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Waits until another batch may gather rows: few do at a time, and none while the client does not read.
    pub async fn gather(self: &Rc<Self>) -> Gathering<E> {
        let may = || self.gathering.get() < GATHERING_MAX || self.closed.get();
        self.gathering_watchers.until(may).await;
        self.gathering.set(self.gathering.get() + 1);
        let gathering = Gathering { session: self.clone() };
        self.room_watchers.until(|| self.has_room() || self.closed.get()).await;
        gathering
    }

    /// The same, if that needs no waiting.
    pub fn gather_at_once(self: &Rc<Self>) -> Option<Gathering<E>> {
        if self.gathering.get() >= GATHERING_MAX || !self.has_room() {
            return None;
        }
        self.gathering.set(self.gathering.get() + 1);
        Some(Gathering { session: self.clone() })
    }

    /// Counts a batch that is being computed, until the guard is dropped.
    pub fn begin(self: &Rc<Self>) -> InFlight<E> {
        self.in_flight.set(self.in_flight.get() + 1);
        add(&self.core.figures.queries_in_flight, 1);
        InFlight { session: self.clone() }
    }

    /// A batch in flight only waits for changes, until the guard is dropped: it takes no part of what a client may have.
    pub fn wait_idly(self: &Rc<Self>) -> Idle<E> {
        self.waiting_idly.set(self.waiting_idly.get() + 1);
        self.wake();
        Idle { session: self.clone() }
    }

    /// Counts a query without a reply, until the guard is dropped.
    pub fn begin_noreply(self: &Rc<Self>) -> Noreply<E> {
        self.noreply.set(self.noreply.get() + 1);
        Noreply { session: self.clone() }
    }

    /// The connection has ended: cursors go, running queries see it at their next step.
    fn close(self: &Rc<Self>) {
        self.closed.set(true);
        let cursors = std::mem::take(&mut *self.cursors.borrow_mut());
        for cursor in cursors.values() {
            cursor.abandon();
            cursor::uncount(self, cursor);
        }
        self.room_watchers.wake_all();
        self.gathering_watchers.wake_all();
        self.noreply_watchers.wake_all();
        self.waker.borrow_mut().take();
    }
}

impl Receive {
    /// Takes no more queries, but reads a frame over the limit to its end if it is worth it.
    fn refuse(&mut self, oversized: Oversized) {
        self.ended = true;
        if oversized.drains() {
            let frame = HEADER_BYTES as u64 + u64::from(oversized.bytes);
            self.discard_bytes = frame.saturating_sub(self.decoder.pending_bytes() as u64);
        }
        self.decoder = FrameDecoder::default();
    }

    /// Accounts for a large receive buffer.
    fn hold<E: Env>(&mut self, core: &Core<E>) -> Result<(), QueryError> {
        if self.decoder.pending_bytes() == 0 && self.decoder.held_bytes() > UNLEASED_BYTES {
            self.decoder.release();
        }
        let held = self.decoder.held_bytes();
        if held <= UNLEASED_BYTES {
            self.lease = None;
            return Ok(());
        }
        self.lease.get_or_insert_with(|| core.budget.lease()).set(held as u64)
    }
}

/// A query that there is no memory for.
fn too_large_to_hold(error: &QueryError) -> QueryError {
    let text = format!("{}  Send less in one query, or raise --query-memory.", error.message);
    QueryError::new(ErrorKind::ResourceLimit, text)
}

fn duplicate(token: i64, out: &mut Vec<u8>) {
    response::error(
        token,
        &QueryError::new(ErrorKind::Client, format!("ERROR: duplicate token {token}")),
        out,
    );
}

fn not_in_cache(token: i64, out: &mut Vec<u8>) {
    response::error(
        token,
        &QueryError::new(ErrorKind::Client, format!("Token {token} not in stream cache.")),
        out,
    );
}

/// A batch that is being computed.
pub struct InFlight<E: Env> {
    session: Rc<Session<E>>,
}

impl<E: Env> Drop for InFlight<E> {
    fn drop(&mut self) {
        let session = &self.session;
        session.in_flight.set(session.in_flight.get() - 1);
        let figure = &session.core.figures.queries_in_flight;
        figure.set(figure.get() - 1);
        // The session may have stopped reading because of it, or wait for it to end.
        session.wake();
    }
}

/// A batch that waits for changes.
pub struct Idle<E: Env> {
    session: Rc<Session<E>>,
}

impl<E: Env> Drop for Idle<E> {
    fn drop(&mut self) {
        self.session.waiting_idly.set(self.session.waiting_idly.get() - 1);
    }
}

/// A batch that gathers rows.
pub struct Gathering<E: Env> {
    session: Rc<Session<E>>,
}

impl<E: Env> Drop for Gathering<E> {
    fn drop(&mut self) {
        self.session.gathering.set(self.session.gathering.get() - 1);
        self.session.gathering_watchers.wake_all();
    }
}

/// A query without a reply.
pub struct Noreply<E: Env> {
    session: Rc<Session<E>>,
}

impl<E: Env> Drop for Noreply<E> {
    fn drop(&mut self) {
        self.session.noreply.set(self.session.noreply.get() - 1);
        if self.session.noreply.get() == 0 {
            self.session.noreply_watchers.wake_all();
        }
    }
}
