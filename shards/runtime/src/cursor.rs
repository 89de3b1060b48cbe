//! placeholder
use std::rc::Rc;
use photondb_proto::datum::Text;
use photondb_proto::term::Term;
use crate::env::Env;
use crate::session::Session;
pub struct Cursor;
impl Cursor { pub fn abandon(&self) {} }
pub fn start<E: Env>(_session: &Rc<Session<E>>, _token: i64, _term: Term, _options: Vec<(Text, Term)>, _out: &mut Vec<u8>) {}
pub fn resume<E: Env>(_session: &Rc<Session<E>>, _cursor: &Rc<Cursor>, _out: &mut Vec<u8>) {}
pub fn stop<E: Env>(_session: &Rc<Session<E>>, _cursor: &Rc<Cursor>, _out: &mut Vec<u8>) {}
