//! The operations that requests spend their time in, one by one: criterion times them and counts their allocations
//! (`benches/hot.rs`), and the guard counts their instructions (`bin/hot.rs`, `bench/guard`).
//!
//! Always: an operation is made once, with all that it needs, and can then be carried out any number of times, each time
//! doing the same.

use std::cell::Cell;
use std::future::Future;
use std::hint::black_box;
use std::path::Path;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use photondb_proto::datum::{Datum, Slice, Text, document as binary, json_parse, key};
use photondb_proto::op::{CatalogReply, DatabaseId, Durability, Op, OpReply, TableId, TableInfo, TableReply};
use photondb_proto::term::parse::{Parser, QueryMessage};
use photondb_proto::wire::frame::{FrameDecoder, write_query};
use photondb_proto::wire::response;
use photondb_query::exec::{Context, Execution, Step};
use photondb_runtime::env::{Env, StoreOptions};
use photondb_runtime::mesh::{Mesh, endpoints};
use photondb_storage::blocking::{BlockingDirectory, block_on, block_on_with};
use photondb_storage::disk::DiskError;
use photondb_storage::engine::{CommitInfo, Edit, StorageEngine, StorageError, TreeId, TreeName};
use photondb_storage::memory::MemoryEngine;
use photondb_storage::slab::{SlabEngine, SlabOptions};

use crate::work::{Random, document, key as key_text};

/// Rows of the store that is read and written.
const ROWS: u64 = 20_000;
const FUEL: u32 = 1_000_000;
const GET: &str = r#"[1,[16,[[15,[[14,["bench"]],"docs"]],"user000000000001"]],{}]"#;
/// range(100).map(x => x * 2 + 1).sum()
const SUM: &str = r#"[1,[145,[[38,[[173,[100]],[69,[[2,[1]],[24,[[26,[[10,[1]],2]],1]]]]]]]],{}]"#;

/// An operation by its name.
pub struct Hot {
    pub name: &'static str,
    /// Whether the guard watches it.
    pub is_guarded: bool,
    /// Makes it; files go to a folder of their own.
    pub make: fn(&Path) -> Box<dyn FnMut()>,
}

const fn hot(name: &'static str, is_guarded: bool, make: fn(&Path) -> Box<dyn FnMut()>) -> Hot {
    Hot { name, is_guarded, make }
}

pub static OPERATIONS: &[Hot] = &[
    hot("frame-and-term", true, frame_and_term),
    hot("plan-and-evaluate-get", true, plan_and_evaluate_get),
    hot("evaluate-sum", false, evaluate_sum),
    hot("datum-encode", true, datum_encode),
    hot("datum-decode", false, datum_decode),
    hot("datum-view-field", false, datum_view_field),
    hot("key-encode", false, key_encode),
    hot("json-reply", true, json_reply),
    hot("hop-and-back", false, hop_and_back),
    hot("tree-get", true, tree_get),
    hot("log-append", true, log_append),
];

fn datum() -> Datum {
    json_parse::parse(&Text::new(&document(7))).expect("a document")
}

/// A frame of a `get` cut out of the stream and parsed.
fn frame_and_term(_: &Path) -> Box<dyn FnMut()> {
    let mut bytes = Vec::new();
    write_query(1, GET.as_bytes(), &mut bytes);
    let mut decoder = FrameDecoder::default();
    let mut parser = Parser::default();
    Box::new(move || {
        decoder.push(black_box(&bytes));
        let frame = decoder.next_frame().expect("in bounds").expect("whole");
        black_box(parser.parse(frame.query).expect("a query"));
    })
}

/// Runs a query to its end, the table and the row at hand.
fn evaluate(query: &str) -> Box<dyn FnMut()> {
    let mut text = query.as_bytes().to_vec();
    let parsed = Parser::default().parse(&mut text).expect("a query");
    let QueryMessage::Start { term, .. } = parsed else { panic!("a START") };
    let term = Rc::new(term);
    let table = TableInfo {
        id: TableId([1; 16]),
        database_id: DatabaseId([2; 16]),
        database: "bench".to_owned(),
        name: "docs".to_owned(),
        primary_key: "id".to_owned(),
        durability: Durability::Hard,
        indexes: Vec::new(),
    };
    let row = binary::to_bytes(&datum());
    let user: Rc<str> = "admin".into();
    Box::new(move || {
        let context = Context { user: user.clone(), now_epoch_seconds: 0.0, memory_bytes_max: 64 << 20 };
        let mut execution = Execution::start(black_box(&term), Vec::new(), context).expect("a plan");
        loop {
            match execution.step(FUEL) {
                Step::OutOfFuel => {}
                Step::Needs(Op::Catalog(_)) => {
                    execution.answer(Ok(OpReply::Catalog(CatalogReply::Table(table.clone()))));
                }
                Step::Needs(Op::Read { .. }) => {
                    execution.answer(Ok(OpReply::Read(TableReply::Row(Some(row.clone())))));
                }
                Step::Ready(answer) => {
                    black_box(answer);
                    break;
                }
                Step::Needs(op) => panic!("it asks for {op:?}"),
                Step::Failed(error) => panic!("{error:?}"),
            }
        }
    })
}

fn plan_and_evaluate_get(_: &Path) -> Box<dyn FnMut()> {
    evaluate(GET)
}

fn evaluate_sum(_: &Path) -> Box<dyn FnMut()> {
    evaluate(SUM)
}

fn datum_encode(_: &Path) -> Box<dyn FnMut()> {
    let (datum, mut out) = (datum(), Vec::with_capacity(4096));
    Box::new(move || {
        out.clear();
        binary::encode(black_box(&datum), &mut out);
    })
}

fn datum_decode(_: &Path) -> Box<dyn FnMut()> {
    let bytes = binary::to_bytes(&datum());
    Box::new(move || drop(black_box(binary::from_bytes(black_box(&bytes)))))
}

/// One field of a document that is not decoded otherwise.
fn datum_view_field(_: &Path) -> Box<dyn FnMut()> {
    let bytes = Slice::from(binary::to_bytes(&datum()));
    Box::new(move || {
        let Datum::Object(object) = binary::decode(black_box(bytes.clone())) else { panic!("an object") };
        black_box(object.field("n"));
    })
}

fn key_encode(_: &Path) -> Box<dyn FnMut()> {
    let id = Datum::string("user000000000007");
    Box::new(move || drop(black_box(key::primary(black_box(&id)))))
}

fn json_reply(_: &Path) -> Box<dyn FnMut()> {
    let (bytes, mut out) = (binary::to_bytes(&datum()), Vec::with_capacity(4096));
    Box::new(move || {
        out.clear();
        response::atom(1, |out| binary::write_json(black_box(&bytes), out), &mut out);
    })
}

/// What the mesh needs of a core's surroundings, which is that its turns go on.
#[derive(Clone)]
struct Nowhere;

impl Env for Nowhere {
    type Store = MemoryEngine;

    fn stores(&self) -> Result<Vec<u16>, DiskError> {
        Ok(Vec::new())
    }
    async fn open_store(&self, _: u16, _: StoreOptions) -> Result<MemoryEngine, StorageError> {
        Ok(MemoryEngine::new())
    }
    fn unix_ms(&self) -> u64 {
        0
    }
    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }
    async fn sleep(&self, _: Duration) {}
    async fn next_turn(&self) {}
    fn random(&self, _: &mut [u8]) {}
    fn spawn(&self, _: impl Future<Output = ()> + 'static) {}
}

/// A request to another core and its reply, both cores awake: two hops.
fn hop_and_back(_: &Path) -> Box<dyn FnMut()> {
    let mut ends = endpoints::<u64, u64>(2).into_iter().map(Mesh::new);
    let (asking, answering) = (ends.next().expect("two"), ends.next().expect("two"));
    let replier = answering.clone();
    let mut answers = Box::pin(answering.serve(Nowhere, move |peer, id, body| replier.reply(peer, id, body)));
    let mut returns = Box::pin(asking.clone().serve(Nowhere, |_, _, _| {}));
    Box::new(move || {
        let mut context = TaskContext::from_waker(Waker::noop());
        let mut request = pin!(asking.request(1, black_box(7)));
        assert!(request.as_mut().poll(&mut context).is_pending());
        assert!(answers.as_mut().poll(&mut context).is_pending());
        assert!(returns.as_mut().poll(&mut context).is_pending());
        assert!(request.as_mut().poll(&mut context) == Poll::Ready(7));
    })
}

fn put(tree: TreeId, number: u64) -> [Edit; 1] {
    [Edit::Put { tree, key: key_text(number).into_bytes(), value: document(number).into_bytes() }]
}

/// A store with rows. It lives as long as the process.
fn store(folder: &Path) -> (&'static SlabEngine<BlockingDirectory>, TreeId) {
    let directory = BlockingDirectory::new(folder.to_owned()).expect("a folder");
    let options = SlabOptions { cache_bytes: 256 << 20, ..SlabOptions::default() };
    let engine = Box::leak(Box::new(block_on(SlabEngine::open(directory, options)).expect("a new store")));
    let fill = async {
        let tree = engine.create_tree(&TreeName((*b"bench").into())).await.expect("a tree");
        for number in 0..ROWS {
            engine.commit(CommitInfo::default(), &put(tree, number)).await.expect("a write");
        }
        tree
    };
    let tree = block_on_with(pin!(engine.work()).as_mut(), fill);
    (engine, tree)
}

fn tree_get(folder: &Path) -> Box<dyn FnMut()> {
    let (engine, tree) = store(folder);
    let keys: Vec<String> = (0..ROWS).map(key_text).collect();
    let mut random = Random(1);
    Box::new(move || {
        let key = &keys[random.below(ROWS) as usize];
        drop(black_box(engine.cached(tree, black_box(key.as_bytes()))));
    })
}

/// A soft write of a row that is there: its record into the log's queue, and its value into the tree.
fn log_append(folder: &Path) -> Box<dyn FnMut()> {
    let (engine, tree) = store(folder);
    let mut background = Box::pin(engine.work());
    let edits: Vec<[Edit; 1]> = (0..64).map(|number| put(tree, number * 100)).collect();
    let next = Cell::new(0);
    Box::new(move || {
        next.set((next.get() + 1) % edits.len());
        let write = engine.commit(CommitInfo::default(), black_box(&edits[next.get()]));
        block_on_with(background.as_mut(), write).expect("a write");
    })
}
