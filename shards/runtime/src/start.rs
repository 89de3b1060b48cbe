//! Starting and stopping: threads, recovery, listeners, in an order that leaves no half-started server.
//!
//! Always: nothing listens before every core has recovered its stores and holds the catalog; nothing recovers before the
//! directory is locked. Each step that fails ends all threads and gives one sentence. Stopping drains every core before
//! any store closes, because a core may still be asked by another.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use photondb_proto::control::CoreCommand;
use photondb_proto::limits;
use photondb_proto::op::{DatabaseId, uuid_text};
use photondb_proto::wire::scram::{Credential, ITERATIONS_EMPTY, SALT_BYTES};
use photondb_storage::backend::Backend;
use photondb_storage::engine::{CommitInfo, Edit, StorageEngine, StorageError, TreeName};

use crate::behind::{Classes, behind, behind_pressed};
use crate::catalog::{
    Catalog, DEFAULT_TAG, Database, HEARTBEAT_TIMEOUT_SECS, Record, Server, database_record, server_record,
    user_record,
};
use crate::construct;
use crate::core::{Answer, CatalogOwner, Core, CoreParts, Request, SlowWork};
use crate::env::{Env, StoreOptions};
use crate::mesh::{Endpoint, Mesh, endpoints};
use crate::owner;
use crate::route;
use crate::session;
use crate::sockets::{BoundListener, Listener};
use crate::table::{CATALOG_TREE, OpenStore, table_of_tree};
use crate::uring::{self, UringEnv};
use crate::{
    CoreHandle, CoreMessage, CoreOrder, DataPlane, DataPlaneOptions, ServerFacts, StartError, StartSummary,
    StopError,
};

/// Address space of a core's stack; only what is used becomes memory. Evaluation of deep queries needs some of it.
const STACK_BYTES: usize = 64 << 20;
/// Commands that may wait for a core.
const COMMANDS_MAX: usize = 64;
/// Work that may wait for the slow threads; beyond it a handshake or a write to `users` waits to hand its own in.
const SLOW_WORK_MAX: usize = 256;
const SLOW_THREADS: usize = 2;
const SLOW_NICE: i32 = 10;
/// How long `accept` pauses when descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What a core's thread is given.
struct ThreadPlan {
    core: CorePlan,
    cpu: usize,
    recovered: flume::Sender<Result<Recovered, StartError>>,
    go: flume::Receiver<Vec<BoundListener>>,
    commands: flume::Receiver<CoreMessage>,
}

/// What a core begins with.
pub(crate) struct CorePlan {
    pub number: u16,
    pub endpoint: Endpoint<Request, Answer>,
    pub own_stores: Vec<u16>,
    pub stores: u16,
    pub options: Arc<DataPlaneOptions>,
    pub initial_credential: Option<Credential>,
    pub catalog_in: flume::Receiver<Vec<Record>>,
    pub catalog_out: Vec<flume::Sender<Vec<Record>>>,
    pub slow_work: flume::Sender<SlowWork>,
    pub server: Arc<ServerFacts>,
}

/// What the catalog's owner tells of it.
struct Recovered {
    identity: Option<Identity>,
}

pub(crate) struct Identity {
    server_id: String,
    server_name: String,
    admin_password_is_empty: bool,
    shards_to_spread: u32,
}

/// See [`DataPlane::start`].
pub(crate) fn start(options: DataPlaneOptions) -> Result<DataPlane, StartError> {
    let cores = u16::try_from(options.cpus.len()).unwrap_or(0);
    if cores == 0 {
        return Err(StartError("At least one core is needed.".into()));
    }
    crate::probe(&options.data_dir)?;
    let lock = lock(&options.data_dir)?;
    probe_port(&options.bind, options.driver_port)?;
    let found = uring::stores_of(&options.data_dir).map_err(|error| StartError(format!("{error}.")))?;
    if options.storage == Backend::Memory && !found.is_empty() {
        return Err(StartError(format!(
            "The data directory {} holds data on disk, which the storage backend memory does not see: choose another --data-dir.",
            options.data_dir.display()
        )));
    }
    let stores = found.last().map_or(0, |last| last + 1).max(cores);
    let initial_credential = options.initial_password.as_ref().map(|password| {
        let mut salt = [0; SALT_BYTES];
        uring::random_bytes(&mut salt);
        Credential::derive(password.as_bytes(), salt, options.password_iterations)
    });
    let server = Arc::new(options.server.clone());
    let options = Arc::new(options);
    let slow_work = start_slow_threads()?;

    let (recovered_out, recovered_in) = flume::bounded(usize::from(cores));
    let catalogs: Vec<_> = (0..cores).map(|_| flume::bounded(1)).collect();
    let catalog_out: Vec<_> = catalogs[1..].iter().map(|(out, _)| out.clone()).collect();
    let mut started = Vec::new();
    for (endpoint, (_, catalog_in)) in endpoints(cores).into_iter().zip(catalogs) {
        let number = started.len() as u16;
        let (commands_out, commands) = flume::bounded(COMMANDS_MAX);
        let (go_out, go) = flume::bounded(1);
        let core = CorePlan {
            number,
            endpoint,
            own_stores: (0..stores).filter(|store| store % cores == number).collect(),
            stores,
            options: options.clone(),
            initial_credential: initial_credential.clone(),
            catalog_in,
            catalog_out: if number == 0 { catalog_out.clone() } else { Vec::new() },
            slow_work: slow_work.clone(),
            server: server.clone(),
        };
        let cpu = options.cpus[usize::from(number)];
        let plan = ThreadPlan { core, cpu, recovered: recovered_out.clone(), go, commands };
        let thread = start_thread(plan)?;
        started.push(Started { handle: CoreHandle { number, commands: commands_out }, go: go_out, thread });
    }
    drop((recovered_out, catalog_out));
    let identity = wait_recovered(&recovered_in, cores)?;
    let listening = listen(&options, &started)?;
    let summary = StartSummary {
        server_id: identity.server_id,
        server_name: identity.server_name,
        listening,
        stores,
        shards_to_spread: identity.shards_to_spread,
        admin_password_is_empty: identity.admin_password_is_empty,
    };
    let (cores, threads) = started.into_iter().map(|core| (core.handle, core.thread)).unzip();
    Ok(DataPlane { cores, threads, summary, _lock: lock })
}

struct Started {
    handle: CoreHandle,
    go: flume::Sender<Vec<BoundListener>>,
    thread: CoreThread,
}

pub(crate) type CoreThread = JoinHandle<Result<(), String>>;

/// Holds the data directory for this process.
pub(crate) fn lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("LOCK");
    let cannot = |error: std::io::Error| StartError(format!("{} cannot be opened: {error}.", path.display()));
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(cannot)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError(format!(
            "The data directory {} is in use by another process: stop that one or choose another --data-dir.",
            data_dir.display()
        ))),
        Err(errno) => Err(cannot(errno.into())),
    }
}

/// A plain bind fails where another program listens; a bind with SO_REUSEPORT would share the port with it.
fn probe_port(bind: &[IpAddr], port: u16) -> Result<(), StartError> {
    for address in bind.iter().filter(|_| port != 0) {
        let address = SocketAddr::new(*address, port);
        StdListener::bind(address).map_err(|error| cannot_listen(address, &error))?;
    }
    Ok(())
}

fn cannot_listen(address: SocketAddr, error: &std::io::Error) -> StartError {
    StartError(match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "Port {} of {} is in use: stop what listens there or choose another --driver-port.",
                address.port(),
                address.ip()
            )
        }
        std::io::ErrorKind::PermissionDenied => {
            format!("Port {} needs privileges: choose a --driver-port above 1023.", address.port())
        }
        _ => {
            format!("PhotonDB cannot listen on {address} ({error}): choose another --bind or --driver-port.")
        }
    })
}

/// The ordinary threads for what takes milliseconds of pure CPU. They yield to everything else on the machine.
fn start_slow_threads() -> Result<flume::Sender<SlowWork>, StartError> {
    let (sender, jobs) = flume::bounded::<SlowWork>(SLOW_WORK_MAX);
    for number in 0..SLOW_THREADS {
        let jobs = jobs.clone();
        let work = move || {
            // Of this thread alone, as Linux has it; where it is refused the work is done all the same.
            let _ = rustix::process::nice(SLOW_NICE);
            for job in jobs {
                job();
            }
        };
        let thread = std::thread::Builder::new().name(format!("photondb-slow-{number}")).spawn(work);
        thread.map_err(|error| StartError(format!("No thread could be started: {error}.")))?;
    }
    Ok(sender)
}

fn start_thread(plan: ThreadPlan) -> Result<CoreThread, StartError> {
    let builder = std::thread::Builder::new()
        .name(format!("photondb-core-{}", plan.core.number))
        .stack_size(STACK_BYTES);
    let thread = builder.spawn(move || {
        let (cpu, options, recovered) = (plan.cpu, plan.core.options.clone(), plan.recovered.clone());
        let number = plan.core.number;
        let run = || uring::run(Some(cpu), &options.data_dir, options.cures, |env| run_core(env, plan));
        // Evaluation is guarded where it happens: what comes here is a broken invariant, and what the core holds in memory
        // is not to be trusted or written any more.
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).unwrap_or_else(|_| {
            tracing::error!(core = number, "a core has panicked: the process ends");
            std::process::abort()
        });
        match ran {
            Ok(ended) => ended,
            Err(error) => {
                let _ = recovered.send(Err(error));
                Ok(())
            }
        }
    });
    thread.map_err(|error| StartError(format!("No thread could be started: {error}.")))
}

fn wait_recovered(
    recovered: &flume::Receiver<Result<Recovered, StartError>>,
    cores: u16,
) -> Result<Identity, StartError> {
    let mut identity = None;
    for _ in 0..cores {
        let core = recovered
            .recv()
            .map_err(|_| StartError("A core ended while it started; see the log.".into()))??;
        identity = core.identity.or(identity);
    }
    identity.ok_or_else(|| StartError("No core found the catalog.".into()))
}

/// Binds every address once for each core and hands the sockets out.
fn listen(options: &DataPlaneOptions, started: &[Started]) -> Result<Vec<SocketAddr>, StartError> {
    let mut listening: Vec<SocketAddr> = Vec::new();
    let mut sockets: Vec<Vec<BoundListener>> = started.iter().map(|_| Vec::new()).collect();
    for ip in &options.bind {
        // A port chosen by the kernel is the same for all.
        let port = listening.first().map_or(options.driver_port, SocketAddr::port);
        let mut address = SocketAddr::new(*ip, port);
        for sockets in &mut sockets {
            let listener = BoundListener::bind(address).map_err(|error| cannot_listen(address, &error))?;
            address = listener.address().map_err(|error| cannot_listen(address, &error))?;
            sockets.push(listener);
        }
        listening.push(address);
    }
    for (core, sockets) in started.iter().zip(sockets) {
        core.go
            .send(sockets)
            .map_err(|_| StartError("A core ended while it started; see the log.".into()))?;
    }
    Ok(listening)
}

// ---------------------------------------------------------------- on the core

/// A core's life. The error is for [`StopError::Store`].
async fn run_core(env: UringEnv, plan: ThreadPlan) -> Result<(), String> {
    let ThreadPlan { core, recovered, go, commands, .. } = plan;
    let core = match recover(env, core).await {
        Ok((core, identity)) => {
            let _ = recovered.send(Ok(Recovered { identity }));
            core
        }
        Err(error) => {
            let _ = recovered.send(Err(error));
            return Ok(());
        }
    };
    drop(recovered);
    let env = core.env.clone();
    serve_peers(&core);
    // Without listeners another core failed to start: there is nothing to serve.
    let Ok(sockets) = go.recv_async().await else { return Ok(()) };
    if let Some(address) = sockets.first().and_then(|socket| socket.address().ok()) {
        core.driver_port.set(address.port());
    }
    for socket in sockets {
        let listener = socket.into_listener(env.sockets());
        let listener = listener.map_err(|error| format!("a listener could not be registered: {error}"))?;
        env.spawn(accept(core.clone(), listener));
    }
    construct::begin(&core);
    core.tend_change_logs();
    env.spawn(core.clone().measure_turns());
    env.spawn(core.clone().settle_stores());
    obey(&core, &commands).await;
    close(&core).await
}

/// Answers what the other cores ask, from now on.
pub(crate) fn serve_peers<E: Env>(core: &Rc<Core<E>>) {
    let asked = core.clone();
    let serving = core.mesh.clone().serve(core.env.clone(), move |peer, id, request| {
        serve_request(&asked, peer, id, request);
    });
    core.env.spawn(serving);
}

/// Answers a peer's request, in a task of its own unless it can be answered at once.
fn serve_request<E: Env>(core: &Rc<Core<E>>, peer: u16, id: u32, request: Request) {
    let serving = match route::serve_at_once(core, request) {
        route::AtOnce::Answered(answer) => return core.mesh.reply(peer, id, answer),
        route::AtOnce::Waits(serving) => serving,
    };
    let mesh = core.mesh.clone();
    core.env.spawn(async move { mesh.reply(peer, id, serving.await) });
}

/// Opens the stores and gets the catalog: from store 0, or from the core that has it.
pub(crate) async fn recover<E: Env>(
    env: E,
    plan: CorePlan,
) -> Result<(Rc<Core<E>>, Option<Identity>), StartError> {
    let options = StoreOptions {
        backend: plan.options.storage,
        cache_bytes: plan.options.cache_bytes / u64::from(plan.stores),
        compression_level: plan.options.compression_level,
        compression_bytes_min: plan.options.compression_bytes_min,
        table_of: table_of_tree,
    };
    let classes = Rc::<Classes>::default();
    let mut own_stores = BTreeMap::new();
    for number in &plan.own_stores {
        let store = open(&env, &classes, *number, options, plan.slow_work.clone()).await;
        let store = store.map_err(|error| cannot_open(*number, &error))?;
        own_stores.insert(*number, store);
    }
    let (catalog, owner) = match own_stores.get(&0) {
        Some(store) => {
            let (catalog, owner) =
                own_catalog(&env, store, &plan).await.map_err(|error| cannot_open(0, &error))??;
            (catalog, Some(owner))
        }
        None => {
            let records = plan.catalog_in.recv_async().await;
            let records =
                records.map_err(|_| StartError("The core with the catalog could not start.".into()))?;
            let catalog = Catalog::from_records(&records).map_err(|error| StartError(format!("{error}.")))?;
            (catalog.ok_or_else(|| StartError("The catalog is empty.".into()))?, None)
        }
    };
    let admin_password_is_empty = catalog.credential("admin").is_some_and(|admin| admin.password_is_empty);
    if admin_password_is_empty && plan.options.require_admin_password {
        return Err(StartError(
            "The admin password is empty: give one with --initial-password, or bind to 127.0.0.1 only, or allow it with \
             --allow-empty-password."
                .into(),
        ));
    }
    for out in &plan.catalog_out {
        let _ = out.send(catalog.records());
    }
    for (number, store) in &own_stores {
        store.drop_orphans(&catalog).await.map_err(|error| cannot_open(*number, &error))?;
        let logs = store.drop_logs(&catalog, plan.options.change_log).await;
        logs.map_err(|error| cannot_open(*number, &error))?;
    }
    let identity = owner.as_ref().map(|_| Identity {
        server_id: catalog.server_id(),
        server_name: catalog.server.name.clone(),
        admin_password_is_empty,
        shards_to_spread: shards_to_spread(&catalog, plan.stores),
    });
    let core = Core::new(CoreParts {
        number: plan.number,
        env,
        mesh: Mesh::new(plan.endpoint),
        catalog,
        owner,
        own_stores,
        stores: plan.stores,
        query_memory_bytes: plan.options.query_memory_bytes / plan.options.cpus.len() as u64,
        change_log: plan.options.change_log,
        slow_work: plan.slow_work,
        classes,
        password_iterations: plan.options.password_iterations,
        outside: plan.options.outside.0.clone(),
        server: plan.server,
    });
    Ok((core, identity))
}

fn cannot_open(number: u16, error: &StorageError) -> StartError {
    StartError(match error {
        StorageError::Format { .. } => {
            format!("Store {number} cannot be opened: {error}; use the version that wrote it.")
        }
        StorageError::Backend { found, .. } => {
            format!(
                "Store {number} cannot be opened: {error}; start with --storage {found}, or choose another --data-dir."
            )
        }
        StorageError::Full { .. } => {
            format!("Store {number} cannot be opened: {error}; make room on the disk.")
        }
        StorageError::Disk(_)
        | StorageError::Corrupt { .. }
        | StorageError::ReadOnly { .. }
        | StorageError::KeyTooLong { .. }
        | StorageError::NoTree(_) => format!("Store {number} cannot be opened: {error}."),
    })
}

/// Opens a store, starts its own work and begins a new epoch in it.
async fn open<E: Env>(
    env: &E,
    classes: &Rc<Classes>,
    number: u16,
    options: StoreOptions,
    slow_work: flume::Sender<SlowWork>,
) -> Result<Rc<OpenStore<E::Store>>, StorageError> {
    let engine = Rc::new(env.open_store(number, options).await?);
    env.spawn({
        let engine = engine.clone();
        async move { engine.foreground().await }
    });
    let background = {
        let engine = engine.clone();
        async move {
            if let Err(error) = engine.background().await {
                tracing::error!(store = number, %error, "a store has stopped writing");
            }
        }
    };
    let pressure = {
        let engine = engine.clone();
        move || engine.pressure()
    };
    env.spawn(behind_pressed(env, classes, pressure, background));
    let dictionaries = {
        let engine = engine.clone();
        async move { make_dictionaries(number, &*engine, slow_work).await }
    };
    env.spawn(behind(env, classes, dictionaries));
    OpenStore::begin(number, engine).await.map(Rc::new)
}

/// Makes the dictionaries that a store wants, on the threads for slow work.
async fn make_dictionaries(number: u16, engine: &impl StorageEngine, slow_work: flume::Sender<SlowWork>) {
    while let Some(training) = engine.training().await {
        let (sender, made) = flume::bounded(1);
        let work: SlowWork = Box::new(move || {
            // A store that has been closed meanwhile wants it no more.
            let _ = sender.send(training.train());
        });
        if slow_work.send_async(work).await.is_err() {
            return;
        }
        let Ok(dictionary) = made.recv_async().await else { return };
        if let Err(error) = engine.set_dictionary(dictionary).await {
            tracing::warn!(store = number, %error, "a dictionary could not be kept");
        }
    }
}

/// Reads the catalog of store 0, and makes it in a new data directory.
async fn own_catalog<E: Env>(
    env: &E,
    store: &Rc<OpenStore<E::Store>>,
    plan: &CorePlan,
) -> Result<Result<(Catalog, CatalogOwner), StartError>, StorageError> {
    let tree = store.engine.create_tree(&TreeName(CATALOG_TREE.into())).await?;
    let records = owner::read_records(&*store.engine, tree).await?;
    let read = match Catalog::from_records(&records) {
        Ok(read) => read,
        Err(error) => {
            return Ok(Err(StartError(format!("{error}: use the version of PhotonDB that wrote it."))));
        }
    };
    let changes = match &read {
        None => first_records(env, plan),
        Some(catalog) => {
            let is_empty = catalog.credential("admin").is_some_and(|admin| admin.password_is_empty);
            let given = plan.initial_credential.as_ref().filter(|_| is_empty);
            given.map(|credential| user_record("admin", credential)).into_iter().collect()
        }
    };
    if !changes.is_empty() {
        let edits: Vec<Edit> =
            changes.iter().map(|(key, value)| owner::catalog_edit(tree, key, value.as_deref())).collect();
        let info = CommitInfo { commit_time_ms: env.unix_ms(), ..CommitInfo::default() };
        let lsn = store.engine.commit(info, &edits).await?;
        store.engine.flushed(lsn).await?;
    }
    let catalog = match read {
        None => Catalog::from_records(&changes).ok().flatten().expect("the first records make a catalog"),
        Some(mut catalog) => {
            catalog.apply(&changes).expect("a record made here is understood here");
            catalog
        }
    };
    Ok(Ok((
        catalog,
        CatalogOwner {
            tree,
            turnstile: Default::default(),
            constructing: Default::default(),
            scratch: Default::default(),
        },
    )))
}

/// The catalog of a new data directory: its server, the database `test`, the user `admin`.
fn first_records<E: Env>(env: &E, plan: &CorePlan) -> Vec<Record> {
    let id = || {
        let mut random = [0; 16];
        env.random(&mut random);
        *owner::as_uuid(random).as_bytes()
    };
    let server_id = id();
    let made_up = || format!("photondb_{}", &uuid_text(&server_id)[..8]);
    let server = Server {
        id: server_id,
        name: plan.options.server_name.clone().unwrap_or_else(made_up),
        epoch: 1,
        next_shard: 1,
        salt_secret: id(),
        tags: vec![DEFAULT_TAG.to_owned()],
        heartbeat_timeout_secs: HEARTBEAT_TIMEOUT_SECS,
    };
    let admin = plan.initial_credential.clone().unwrap_or_else(|| {
        let mut salt = [0; SALT_BYTES];
        env.random(&mut salt);
        Credential::derive(b"", salt, ITERATIONS_EMPTY)
    });
    let test = Database { id: DatabaseId(id()), name: "test".to_owned() };
    vec![server_record(&server), database_record(&test), user_record("admin", &admin)]
}

/// Shards beyond a fair share of their store.
fn shards_to_spread(catalog: &Catalog, stores: u16) -> u32 {
    let surplus = |placement: &[u16]| {
        let fair = placement.len().div_ceil(usize::from(stores)) as u32;
        let on = |store| placement.iter().filter(|placed| **placed == store).count() as u32;
        (0..stores).map(|store| on(store).saturating_sub(fair)).sum::<u32>()
    };
    debug_assert!(stores <= limits::SHARDS_MAX, "more stores than shards cannot all be used");
    catalog.tables().map(|table| surplus(&table.placement)).sum()
}

/// Takes connections until the core drains.
async fn accept<E: Env>(core: Rc<Core<E>>, listener: Listener) {
    loop {
        let draining = core.drain_watchers.until(|| core.draining.get());
        let next = futures_lite::future::or(
            async {
                draining.await;
                None
            },
            async { Some(listener.accept().await) },
        );
        match next.await {
            None => return,
            Some(Ok((socket, peer))) => core.env.spawn(session::serve(core.clone(), socket, peer)),
            Some(Err(error)) => {
                tracing::warn!(%error, "a connection could not be taken");
                core.env.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Carries out commands until one says to close.
async fn obey<E: Env>(core: &Rc<Core<E>>, commands: &flume::Receiver<CoreMessage>) {
    while let Ok(message) = core.env.heard(commands.recv_async()).await {
        match message.order {
            CoreOrder::Command(CoreCommand::Report) => {
                let _ = message.reply.try_send(core.report());
            }
            CoreOrder::Command(CoreCommand::Drain) => {
                core.draining.set(true);
                core.drain_watchers.wake_all();
                let core = core.clone();
                core.env.clone().spawn(async move {
                    core.end_watchers.until(|| core.figures.connections_open.get() == 0).await;
                    let _ = message.reply.try_send(core.report());
                });
            }
            CoreOrder::Close => return,
        }
    }
}

async fn close<E: Env>(core: &Rc<Core<E>>) -> Result<(), String> {
    let mut ended = Ok(());
    for store in core.tables.stores.values() {
        if let Err(error) = store.engine.close().await {
            tracing::error!(store = store.number, %error, "a store did not close well");
            ended = ended.and(Err(format!("store {}: {error}", store.number)));
        }
    }
    ended
}

// ---------------------------------------------------------------- stopping

/// See [`DataPlane::stop`].
pub(crate) fn stop(
    cores: &[CoreHandle],
    threads: Vec<CoreThread>,
    deadline: Duration,
) -> Result<(), StopError> {
    let until = Instant::now() + deadline;
    let drained: Vec<_> =
        cores.iter().map(|core| send(core, CoreOrder::Command(CoreCommand::Drain))).collect();
    for answer in drained.iter().flatten() {
        // What is late is dropped with its core.
        let _ = answer.recv_deadline(until);
    }
    for core in cores {
        send(core, CoreOrder::Close);
    }
    let mut ended = Ok(());
    for (core, thread) in cores.iter().zip(threads) {
        let core = core.number;
        // Closing flushes and checkpoints; it gets its own time, since what it saves is a recovery.
        while !thread.is_finished() && Instant::now() < until + deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
        let this = if thread.is_finished() {
            match thread.join() {
                Ok(closed) => closed.map_err(|reason| StopError::Store { core, reason }),
                Err(_) => Err(StopError::Store { core, reason: "the core panicked".into() }),
            }
        } else {
            Err(StopError::Deadline { core })
        };
        ended = ended.and(this);
    }
    ended
}

fn send(core: &CoreHandle, order: CoreOrder) -> Option<flume::Receiver<photondb_proto::control::CoreReport>> {
    let (reply, answer) = flume::bounded(1);
    core.commands.send_timeout(CoreMessage { order, reply }, Duration::from_millis(100)).ok()?;
    Some(answer)
}
