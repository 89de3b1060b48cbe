//! From a raw term tree to a tree of [`Node`]s: everything that can be wrong with a query before it runs.
//!
//! Always: a node's definition exists, its options are among the definition's, its variables are bound, and its arity is
//! right unless `args()` may change it. Each node knows its place in the query, whether it can be evaluated at once
//! (`now`), and how deterministic its subtree is. IMPLICIT_VAR has become the variable of its function.
//!
//! RethinkDB checks nesting of writes and of ASC/DESC in a walk of its own before it looks at anything else; we do all in
//! one walk, parents first, which differs only in which of two errors of one query is told.
//!
//! To check a query of a hundred thousand terms takes longer than a core may be held up, so the walk is async and spends steps of a
//! [`Pace`]: who checks a query tries at once, and where that takes long begins anew in turns ([`crate::exec`]). Constants, of
//! which large queries are mostly made, cost no future of their own.

use std::collections::BTreeSet;
use std::rc::Rc;

use photondb_proto::control::QueryKind;
use photondb_proto::datum::{Datum, Text};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::term::{Call, Term, number};

use crate::direct::{self, Direct};
use crate::failure::Place;
use crate::geo::pace::{Pace, whole};
use crate::terms::order::ORDERINGS;
use crate::terms::{self, Arity, Determinism, Eval, TermDef};

/// One term of a checked query.
#[derive(Debug)]
pub struct Node {
    pub def: &'static TermDef,
    pub kind: NodeKind,
    pub arguments: Vec<Rc<Node>>,
    pub options: Vec<(&'static str, Rc<Node>)>,
    pub place: Place,
    /// The subtree may be evaluated without waiting: [`crate::eval`] tries that first.
    pub now: bool,
    /// The weakest of the subtree.
    pub determinism: Determinism,
    pub direct: Direct,
}

#[derive(Debug)]
pub enum NodeKind {
    Call,
    Constant(Datum),
    Variable(i64),
    /// The body is the only argument.
    Function(Parameters),
    /// MAKE_OBJ: its pairs.
    Object(Vec<(Text, Rc<Node>)>),
    /// `literal` where none may stand: an error once it is evaluated.
    StrayLiteral,
}

#[derive(Debug)]
pub struct Parameters {
    pub variables: Vec<i64>,
    /// Outer variables that the body uses.
    pub captured: Vec<i64>,
}

impl Node {
    /// The body of a FUNC node.
    pub fn body(&self) -> &Rc<Node> {
        &self.arguments[0]
    }

    /// The term this node was made from; `r.row` has become the variable it stands for.
    pub fn to_term(&self) -> Term {
        let call = |arguments: Vec<Term>, options| {
            Term::Call(Box::new(Call { number: self.def.number, arguments, options }))
        };
        match &self.kind {
            NodeKind::Constant(datum) => Term::Datum(datum.clone()),
            NodeKind::Variable(id) => Term::Call(Box::new(Call {
                number: number::VAR,
                arguments: vec![Term::Datum(Datum::Number(*id as f64))],
                options: Vec::new(),
            })),
            NodeKind::Function(parameters) => {
                let ids = parameters.variables.iter().map(|id| Datum::Number(*id as f64)).collect();
                call(vec![Term::Datum(Datum::array(ids)), self.body().to_term()], Vec::new())
            }
            NodeKind::Object(pairs) => {
                let pairs = pairs.iter().map(|(key, node)| (key.clone(), node.to_term()));
                call(Vec::new(), pairs.collect())
            }
            NodeKind::Call | NodeKind::StrayLiteral => {
                let options = self.options.iter().map(|(name, node)| (Text::new(name), node.to_term()));
                call(self.arguments.iter().map(|node| node.to_term()).collect(), options.collect())
            }
        }
    }
}

/// What a term may use of what stands around it.
#[derive(Clone, Copy)]
struct Scope<'a> {
    /// Parameters of the enclosing functions, innermost first.
    functions: Option<&'a Enclosing<'a>>,
    /// Variables known from outside the term: what a travelling function captured.
    outer: &'a [i64],
    /// What `r.row` is.
    implicit: Implicit,
    writes: Writes,
    orderings: Orderings,
    literals: Literals,
}

struct Enclosing<'a> {
    /// Sorted.
    variables: &'a [i64],
    parent: Option<&'a Enclosing<'a>>,
}

#[derive(Clone, Copy)]
enum Implicit {
    Undefined,
    Variable(i64),
    Ambiguous,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    Allowed,
    Forbidden,
}

/// Whether ASC and DESC may stand here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Orderings {
    Allowed,
    /// Here, and in an array here.
    AllowedInArrays,
    Forbidden,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Literals {
    Allowed,
    Forbidden,
}

/// Checks a whole query.
///
/// # Errors
/// Compile errors with their places.
pub async fn check(term: &Term, pace: &Pace<'_>) -> Result<Checked, QueryError> {
    check_at(term, &[], &Place::root(), Standing::Query, pace).await
}

/// What a term that is checked on its own stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    Query,
    /// A function that has come from a query, which was checked there: literals may be in it.
    Function,
}

/// Checks a function that has travelled, or a term like it, at once: it stands at `place` and may use the variables `outer`.
///
/// # Errors
/// Compile errors with their places.
pub fn check_inside(
    term: &Term,
    outer: &[i64],
    place: &Place,
    standing: Standing,
) -> Result<Rc<Node>, QueryError> {
    whole(check_at(term, outer, place, standing, &Pace::never())).map(|checked| checked.node)
}

/// Checks a term that stands at `place` and may use the variables `outer`.
///
/// # Errors
/// Compile errors with their places.
pub async fn check_at(
    term: &Term,
    outer: &[i64],
    place: &Place,
    standing: Standing,
    pace: &Pace<'_>,
) -> Result<Checked, QueryError> {
    let scope = Scope {
        functions: None,
        outer,
        implicit: Implicit::Undefined,
        writes: Writes::Allowed,
        orderings: Orderings::Forbidden,
        literals: if standing == Standing::Function { Literals::Allowed } else { Literals::Forbidden },
    };
    check_term(term, scope, place, pace).await
}

/// A term of more arguments is evaluated in the way that lets others have their turn.
const AT_ONCE_ARGUMENTS_MAX: usize = 1000;

/// What a term takes, in steps.
const TERM_STEPS: usize = 5;

/// A checked node, what its subtree counts as, and the outer variables it uses.
pub struct Checked {
    pub node: Rc<Node>,
    pub kind: QueryKind,
    free: Free,
}

/// Variables in the order in which they appear, each once.
#[derive(Default)]
struct Free {
    ids: Vec<i64>,
    /// The same, once there are many.
    known: BTreeSet<i64>,
}

/// Up to so many are looked at one by one.
const FREE_UNSORTED_MAX: usize = 16;

impl Free {
    fn add(&mut self, id: i64) {
        if self.ids.len() < FREE_UNSORTED_MAX {
            if self.ids.contains(&id) {
                return;
            }
        } else {
            if self.known.is_empty() {
                self.known.extend(&self.ids);
            }
            if !self.known.insert(id) {
                return;
            }
        }
        self.ids.push(id);
    }

    fn extend(&mut self, other: Free) {
        if self.ids.is_empty() {
            *self = other;
        } else {
            other.ids.into_iter().for_each(|id| self.add(id));
        }
    }
}

/// What a query of this term counts as, but for what is in it.
fn kind_of(term: u32) -> QueryKind {
    match term {
        number::INSERT | number::UPDATE | number::REPLACE | number::DELETE | number::SYNC => QueryKind::Write,
        number::TABLE | number::DB => QueryKind::Read,
        number::DB_LIST | number::TABLE_LIST | number::CONFIG | number::STATUS => QueryKind::Admin,
        other if is_write_or_meta(other) => QueryKind::Admin,
        _ => QueryKind::Pure,
    }
}

/// What a query counts as that is both.
fn heavier(left: QueryKind, right: QueryKind) -> QueryKind {
    let weight = |kind: QueryKind| match kind {
        QueryKind::Pure => 0,
        QueryKind::Read => 1,
        QueryKind::Write => 2,
        QueryKind::Admin => 3,
    };
    if weight(right) > weight(left) { right } else { left }
}

fn fail<T>(place: &Place, message: impl Into<String>) -> Result<T, QueryError> {
    Err(QueryError { kind: ErrorKind::Compile, message: message.into(), backtrace: place.frames() })
}

/// The definition of constants.
pub static DATUM: TermDef = TermDef::pure("DATUM", number::DATUM, Arity::exactly(1), |call| call.datum(0));

fn constant(datum: &Datum, place: &Place) -> Checked {
    Checked {
        node: Rc::new(Node {
            def: &DATUM,
            kind: NodeKind::Constant(datum.clone()),
            arguments: Vec::new(),
            options: Vec::new(),
            place: place.clone(),
            now: true,
            determinism: Determinism::Always,
            direct: Direct::No,
        }),
        kind: QueryKind::Pure,
        free: Free::default(),
    }
}

async fn check_term(
    term: &Term,
    scope: Scope<'_>,
    place: &Place,
    pace: &Pace<'_>,
) -> Result<Checked, QueryError> {
    pace.take(TERM_STEPS).await;
    match term {
        Term::Datum(datum) => Ok(constant(datum, place)),
        Term::Call(call) => Box::pin(check_call(call, scope, place, pace)).await,
    }
}

async fn check_call(
    call: &Call,
    scope: Scope<'_>,
    place: &Place,
    pace: &Pace<'_>,
) -> Result<Checked, QueryError> {
    let Some(def) = terms::find(call.number) else {
        return fail(place, format!("Unrecognized TermType: {}.", call.number));
    };
    check_position(def, scope, place)?;
    let def = match call.number {
        number::MAKE_ARRAY if scope.orderings == Orderings::AllowedInArrays => &ORDERINGS,
        _ => def,
    };
    match call.number {
        number::DATUM => match call.arguments.as_slice() {
            [Term::Datum(datum)] => Ok(constant(datum, place)),
            _ => fail(place, "Expected 1 argument but found 0."),
        },
        number::VAR => variable(call, def, scope, place),
        number::IMPLICIT_VAR => implicit_variable(call, def, scope, place),
        number::FUNC => function(call, def, scope, place, pace).await,
        number::MAKE_OBJ => object(call, def, scope, place, pace).await,
        _ => ordinary(call, def, scope, place, pace).await,
    }
}

/// Whether this term may stand here at all.
fn check_position(def: &TermDef, scope: Scope<'_>, place: &Place) -> Result<(), QueryError> {
    if matches!(def.number, number::ASC | number::DESC) && scope.orderings == Orderings::Forbidden {
        return fail(place, format!("{} may only be used as an argument to ORDER_BY or UNION.", def.name));
    }
    if scope.writes == Writes::Forbidden && is_write_or_meta(def.number) {
        return fail(place, "Cannot nest writes or meta ops in stream operations.  Use FOR_EACH instead.");
    }
    Ok(())
}

/// Terms that change something, or wait for something to change.
pub fn is_write_or_meta(term: u32) -> bool {
    use number::*;
    matches!(
        term,
        UPDATE
            | DELETE
            | INSERT
            | REPLACE
            | DB_CREATE
            | DB_DROP
            | TABLE_CREATE
            | TABLE_DROP
            | WAIT
            | RECONFIGURE
            | REBALANCE
            | SYNC
            | GRANT
            | SET_WRITE_HOOK
            | GET_WRITE_HOOK
            | INDEX_CREATE
            | INDEX_DROP
            | INDEX_WAIT
            | INDEX_RENAME
    )
}

/// Terms whose arguments but the first may hold no write.
fn forbids_writes(term: u32) -> bool {
    use number::*;
    matches!(
        term,
        REDUCE
            | MAP
            | FOLD
            | FILTER
            | CONCAT_MAP
            | GROUP
            | INNER_JOIN
            | OUTER_JOIN
            | EQ_JOIN
            | UPDATE
            | DELETE
            | REPLACE
            | INSERT
            | COUNT
            | SUM
            | AVG
            | MIN
            | MAX
    )
}

/// The scope of a child at `position` (`None`: an option) of a term.
fn child_scope<'a>(term: u32, position: Option<usize>, scope: Scope<'a>) -> Scope<'a> {
    let mut child = scope;
    if forbids_writes(term) && position != Some(0) {
        child.writes = Writes::Forbidden;
    }
    child.orderings = match term {
        number::ORDER_BY => Orderings::Allowed,
        number::UNION if position.is_none() => Orderings::AllowedInArrays,
        number::UNION => Orderings::Allowed,
        number::MAKE_ARRAY if scope.orderings == Orderings::AllowedInArrays => Orderings::Allowed,
        _ => Orderings::Forbidden,
    };
    child.literals = match (term, position) {
        (number::MERGE | number::UPDATE | number::FILTER | number::INSERT, Some(1..)) => Literals::Allowed,
        (
            number::MAKE_OBJ
            | number::MAKE_ARRAY
            | number::FUNC
            | number::FUNCALL
            | number::BRANCH
            | number::DEFAULT
            | number::ARGS
            | number::OR
            | number::AND,
            _,
        ) => scope.literals,
        _ => Literals::Forbidden,
    };
    child
}

fn variable(
    call: &Call,
    def: &'static TermDef,
    scope: Scope<'_>,
    place: &Place,
) -> Result<Checked, QueryError> {
    check_arity(def.arity, call.arguments.len(), place)?;
    let Some(Term::Datum(Datum::Number(id))) = call.arguments.first() else {
        return fail(place, "CLIENT ERROR: VAR takes a literal number.");
    };
    let id = *id as i64;
    let mut enclosing = scope.functions;
    while let Some(function) = enclosing {
        if function.variables.binary_search(&id).is_ok() {
            return Ok(variable_node(id, def, place));
        }
        enclosing = function.parent;
    }
    if scope.outer.contains(&id) {
        return Ok(variable_node(id, def, place));
    }
    fail(place, "Variable name not found.")
}

fn variable_node(id: i64, def: &'static TermDef, place: &Place) -> Checked {
    let node = Node {
        def,
        kind: NodeKind::Variable(id),
        arguments: Vec::new(),
        options: Vec::new(),
        place: place.clone(),
        now: true,
        determinism: Determinism::Always,
        direct: Direct::No,
    };
    let mut free = Free::default();
    free.add(id);
    Checked { node: Rc::new(node), kind: QueryKind::Pure, free }
}

fn implicit_variable(
    call: &Call,
    def: &'static TermDef,
    scope: Scope<'_>,
    place: &Place,
) -> Result<Checked, QueryError> {
    check_arity(def.arity, call.arguments.len(), place)?;
    match scope.implicit {
        Implicit::Undefined => fail(place, "r.row is not defined in this context."),
        Implicit::Variable(id) => Ok(variable_node(id, def, place)),
        Implicit::Ambiguous => fail(place, "Cannot use r.row in nested queries.  Use functions instead."),
    }
}

async fn function(
    call: &Call,
    def: &'static TermDef,
    scope: Scope<'_>,
    place: &Place,
    pace: &Pace<'_>,
) -> Result<Checked, QueryError> {
    if !call.options.is_empty() {
        return fail(place, "FUNC takes no optional arguments.");
    }
    let [parameters, body] = call.arguments.as_slice() else {
        return fail(place, format!("FUNC takes exactly two arguments (got {})", call.arguments.len()));
    };
    let variables = parameter_ids(parameters, place)?;
    let mut sorted = variables.clone();
    sorted.sort_unstable();
    let mut inside = child_scope(def.number, Some(1), scope);
    let enclosing = Enclosing { variables: &sorted, parent: scope.functions };
    inside.functions = Some(&enclosing);
    if let [id] = variables.as_slice()
        && *id >= 0
    {
        inside.implicit = match scope.implicit {
            Implicit::Undefined => Implicit::Variable(*id),
            Implicit::Variable(_) | Implicit::Ambiguous => Implicit::Ambiguous,
        };
    }
    let body = check_term(body, inside, &place.argument(1), pace).await?;
    let mut free = Free::default();
    let outer = body.free.ids.into_iter().filter(|id| sorted.binary_search(id).is_err());
    outer.for_each(|id| free.add(id));
    let node = Node {
        def,
        determinism: body.node.determinism,
        direct: Direct::No,
        // Making the function never waits; calling it may.
        now: true,
        kind: NodeKind::Function(Parameters { variables, captured: free.ids.clone() }),
        arguments: vec![body.node],
        options: Vec::new(),
        place: place.clone(),
    };
    Ok(Checked { node: Rc::new(node), kind: body.kind, free })
}

fn parameter_ids(term: &Term, place: &Place) -> Result<Vec<i64>, QueryError> {
    let id = |datum: &Datum| match datum {
        Datum::Number(number) => Ok(*number as i64),
        _ => fail(place, "CLIENT ERROR: FUNC variables must be a literal array of *numbers*."),
    };
    match term {
        Term::Datum(Datum::Array(ids)) => ids.iter().map(|datum| id(&datum)).collect(),
        Term::Datum(_) => fail(place, "CLIENT ERROR: FUNC variables must be a literal *array* of numbers."),
        Term::Call(call) if call.number == number::MAKE_ARRAY => call
            .arguments
            .iter()
            .map(|argument| match argument {
                Term::Datum(datum) => id(datum),
                Term::Call(_) => {
                    fail(place, "CLIENT ERROR: FUNC variables must be a literal array of *numbers*.")
                }
            })
            .collect(),
        Term::Call(_) => fail(place, "CLIENT ERROR: FUNC variables must be a *literal* array of numbers."),
    }
}

async fn object(
    call: &Call,
    def: &'static TermDef,
    scope: Scope<'_>,
    place: &Place,
    pace: &Pace<'_>,
) -> Result<Checked, QueryError> {
    if !call.arguments.is_empty() {
        return fail(place, "MAKE_OBJ term must not have any args.");
    }
    let mut children = Children::new(def);
    let mut pairs: Vec<(Text, Rc<Node>)> = Vec::with_capacity(call.options.len());
    let mut known = BTreeSet::new();
    for (key, term) in &call.options {
        let place = place.option(key);
        if !known.insert(key.as_bytes()) {
            return fail(&place, format!("Duplicate object key: {}.", key.as_str()));
        }
        let child = check_term(term, child_scope(def.number, None, scope), &place, pace).await?;
        pairs.push((key.clone(), children.add(child)));
    }
    Ok(children.node(NodeKind::Object(pairs), Vec::new(), Vec::new(), place))
}

/// What a node inherits from its children.
struct Children {
    def: &'static TermDef,
    kind: QueryKind,
    free: Free,
    now: bool,
    determinism: Determinism,
}

impl Children {
    fn new(def: &'static TermDef) -> Children {
        let now = match &def.eval {
            Eval::Pure(_) | Eval::Paced(_) | Eval::Sequence { .. } => true,
            Eval::Control { now, .. } => now.is_some(),
            Eval::Strict(_) => false,
        };
        Children { def, kind: kind_of(def.number), free: Free::default(), now, determinism: def.determinism }
    }

    fn add(&mut self, child: Checked) -> Rc<Node> {
        self.free.extend(child.free);
        self.kind = heavier(self.kind, child.kind);
        self.now &= child.node.now;
        self.determinism = self.determinism.max(child.node.determinism);
        child.node
    }

    fn node(
        self,
        kind: NodeKind,
        mut arguments: Vec<Rc<Node>>,
        options: Vec<(&'static str, Rc<Node>)>,
        place: &Place,
    ) -> Checked {
        let Children { def, kind: query_kind, free, now, determinism } = self;
        direct::tell_limit(def.number, &mut arguments);
        let place = place.clone();
        let direct = if now { direct::of_call(def.number, &arguments) } else { Direct::No };
        Checked {
            node: Rc::new(Node { def, kind, arguments, options, place, now, determinism, direct }),
            kind: query_kind,
            free,
        }
    }
}

async fn ordinary(
    call: &Call,
    def: &'static TermDef,
    scope: Scope<'_>,
    place: &Place,
    pace: &Pace<'_>,
) -> Result<Checked, QueryError> {
    let mut children = Children::new(def);
    if def.number == number::UUID && !call.arguments.is_empty() {
        // A name always gives the same UUID.
        children.determinism = Determinism::Always;
    }
    let mut arguments = Vec::with_capacity(call.arguments.len());
    for (index, term) in call.arguments.iter().enumerate() {
        let scope = child_scope(def.number, Some(index), scope);
        arguments.push(children.add(check_term(term, scope, &place.argument(index), pace).await?));
    }
    let spliced = arguments.iter().any(|argument| argument.def.number == number::ARGS);
    if arguments.len() > AT_ONCE_ARGUMENTS_MAX {
        children.now = false;
    }
    if spliced {
        children.now = false;
    } else {
        check_arity(def.arity, arguments.len(), place)?;
    }
    let mut options: Vec<(&'static str, Rc<Node>)> = Vec::with_capacity(call.options.len());
    for (key, term) in &call.options {
        let place = place.option(key);
        let Some(name) = def.options.iter().find(|name| **name == key.as_str()) else {
            return fail(&place, format!("Unrecognized optional argument `{}`.", key.as_str()));
        };
        if options.iter().any(|(known, _)| known == name) {
            return fail(&place, format!("Duplicate optional argument: {name}"));
        }
        let mut child = check_term(term, child_scope(def.number, None, scope), &place, pace).await?;
        if (def.number, *name) == (number::FILTER, "default") {
            child = postponed(child);
        }
        options.push((name, children.add(child)));
    }
    let kind = if def.number == number::LITERAL && scope.literals == Literals::Forbidden {
        NodeKind::StrayLiteral
    } else {
        NodeKind::Call
    };
    Ok(children.node(kind, arguments, options, place))
}

/// A term that is evaluated when it is needed, perhaps never: a function without parameters.
fn postponed(child: Checked) -> Checked {
    let Checked { node, kind, free } = child;
    if matches!(&node.kind, NodeKind::Function(parameters) if parameters.variables.is_empty()) {
        return Checked { node, kind, free };
    }
    let function = Node {
        def: terms::find(number::FUNC).expect("FUNC is a term"),
        kind: NodeKind::Function(Parameters { variables: Vec::new(), captured: free.ids.clone() }),
        place: node.place.clone(),
        now: true,
        determinism: node.determinism,
        direct: Direct::No,
        arguments: vec![node],
        options: Vec::new(),
    };
    Checked { node: Rc::new(function), kind, free }
}

fn check_arity(arity: Arity, count: usize, place: &Place) -> Result<(), QueryError> {
    match arity_message(arity, count) {
        Some(message) => fail(place, message),
        None => Ok(()),
    }
}

/// What is wrong with `count` arguments, if anything.
pub fn arity_message(arity: Arity, count: usize) -> Option<String> {
    let (min, max) = (usize::from(arity.min), arity.max.map(usize::from));
    if count >= min && max.is_none_or(|max| count <= max) {
        return None;
    }
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    Some(match max {
        None => format!("Expected {min} or more {} but found {count}.", plural(min)),
        Some(max) if max == min => format!("Expected {min} {} but found {count}.", plural(min)),
        Some(max) => format!("Expected between {min} and {max} arguments but found {count}."),
    })
}
