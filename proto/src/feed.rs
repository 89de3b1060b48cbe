//! What a query asks of changefeeds, and what it gets: plain data, like [`crate::op`].
//!
//! A query opens a feed ([`FeedOp::Open`]) on the core of its connection and asks it for elements ([`FeedOp::Next`]) as
//! the client wants them. How changes come there from the cores that own the rows is the runtime's own affair.

use std::rc::Rc;

use crate::op::{Document, IndexId, Key, KeyRange, ScanOrder, TableId};

/// A feed of one query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FeedNumber(pub u64);

#[derive(Clone, Debug)]
pub enum FeedOp {
    /// From now on changes are kept for the query → [`FeedReply::Opened`].
    Open(Box<FeedSpec>),
    /// Elements of the first of these feeds that has any → [`FeedReply::Elements`].
    Next {
        feeds: Vec<FeedNumber>,
        form: ElementForm,
        elements_max: u32,
        bytes_max: u32,
        /// Waits for the first element; else the answer may have none.
        wait: bool,
    },
}

/// How elements are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElementForm {
    /// Comma-joined JSON, for the client.
    Json,
    /// Encoded documents, for stages that come behind `changes`.
    Documents,
}

#[derive(Clone, Debug)]
pub enum FeedReply {
    Opened(FeedNumber),
    Elements { feed: FeedNumber, elements: Elements },
}

#[derive(Clone, Debug)]
pub enum Elements {
    Json { items: Rc<Vec<u8>>, count: u32 },
    Documents(Vec<Document>),
}

impl Elements {
    pub fn count(&self) -> usize {
        match self {
            Elements::Json { count, .. } => *count as usize,
            Elements::Documents(documents) => documents.len(),
        }
    }
}

/// What a feed is about.
#[derive(Clone, Debug)]
pub struct FeedSpec {
    /// More than one for the changes of a union.
    pub members: Vec<FeedMember>,
    pub include_initial: bool,
    pub include_states: bool,
    pub include_types: bool,
    pub include_offsets: bool,
    /// Each change, and the end of initial values, says where to go on from: see [`crate::resume`].
    pub include_resume_token: bool,
    /// Goes on behind such a place.
    pub resume_from: Option<String>,
    pub squash: Squash,
    /// Elements that may wait for the client; beyond it they are dropped and the client is told how many.
    pub elements_max: u32,
    /// Ends the feed with an error in that case instead.
    pub ends_on_overflow: bool,
}

#[derive(Clone, Debug)]
pub struct FeedMember {
    pub table: TableId,
    pub rows: FeedRows,
    /// Work that is done on old and new value where the row is: `photondb_query`'s pipeline bytes; empty means none.
    pub pipeline: Vec<u8>,
}

/// The rows whose changes a member wants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum FeedRows {
    /// By primary key, ascending, each once. A point feed has one, and shows it as null when it is not there.
    Keys { keys: Vec<Key>, is_point: bool },
    /// Those in ranges.
    Ranges(FeedRanges),
}

/// Ranges of the primary key's order or of an index's entries.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FeedRanges {
    pub index: Option<IndexId>,
    /// Ascending; no two overlap.
    pub ranges: Vec<KeyRange>,
    /// What is asked of the geometries of a geo index, as in [`crate::op::Scan::question`]; ranges are not looked at then.
    pub question: Vec<u8>,
    /// Only the first rows.
    pub first: Option<FirstRows>,
}

/// The first rows of ranges, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FirstRows {
    pub order: ScanOrder,
    pub rows_max: u32,
}

impl FeedRows {
    pub fn first(&self) -> Option<FirstRows> {
        match self {
            FeedRows::Ranges(ranges) => ranges.first,
            FeedRows::Keys { .. } => None,
        }
    }

    /// Whether a row may stand in several places, and go from one to another: along an index that orders it.
    pub fn moves(&self) -> bool {
        match self {
            FeedRows::Ranges(ranges) => ranges.index.is_some() && ranges.question.is_empty(),
            FeedRows::Keys { .. } => false,
        }
    }

    pub fn index(&self) -> Option<IndexId> {
        match self {
            FeedRows::Ranges(ranges) => ranges.index,
            FeedRows::Keys { .. } => None,
        }
    }
}

/// Whether changes of a row that wait for the client become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Squash {
    Never,
    /// As long as they wait.
    Waiting,
    /// And they wait for at least so many seconds.
    Seconds(f64),
}
