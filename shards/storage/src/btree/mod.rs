//! B-trees of byte keys, with counted nodes, over pages in memory.
//!
//! [`page`] is the layout of one page; [`tree`] searches and changes a tree and never waits: where it needs a page that is
//! not in memory it says which, changes nothing, and is called again when the page is there. Pages are named by numbers that
//! never move, and the table of pages says where on disk a page lies, so writing a page elsewhere changes no other page.

pub(crate) mod cell;
pub(crate) mod page;
pub(crate) mod tree;

/// A page's permanent number in its store.
pub(crate) type PageId = u32;

/// A page that must be read from disk first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missing(pub PageId);
