//! What a query spends its time on, for the option `profile`.
//!
//! Always: tasks nest as evaluation does. A term that is evaluated again below the same parent (the function of a map) is not
//! told again: its task counts samples. So a profile is no larger than its query, whatever the query does. Evaluation has no
//! clock: whoever drives it [lends](Profile::time_with) one. Queries that ask for no profile have none of this.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::Duration;

use photondb_proto::limits;
use photondb_proto::op::Op;
use photondb_proto::outside::OutsideOp;

use crate::check::{Node, NodeKind};

/// Time since some moment that stays the same.
pub type Clock = Rc<dyn Fn() -> Duration>;

#[derive(Default)]
pub struct Profile {
    clock: RefCell<Option<Clock>>,
    tasks: RefCell<Tasks>,
}

#[derive(Default)]
struct Tasks {
    all: Vec<Task>,
    /// Tasks by the one that they are part of and by what they do.
    places: HashMap<(Option<usize>, Work), usize>,
    /// Those under way, each part of the one before.
    open: Vec<usize>,
}

/// What is the same when it is done again.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    /// By the node's address: nodes live as long as their query.
    Term(usize),
    Op(&'static str),
}

struct Task {
    description: String,
    duration: Duration,
    samples: u32,
    parts: Vec<usize>,
}

impl Profile {
    pub fn time_with(&self, clock: Clock) {
        *self.clock.borrow_mut() = Some(clock);
    }

    fn elapsed(&self) -> Duration {
        self.clock.borrow().as_ref().map_or(Duration::ZERO, |clock| clock())
    }

    /// Counts the term's evaluation until the span is dropped. Constants and variables are not worth a task.
    pub fn evaluating(&self, node: &Rc<Node>) -> Option<Span<'_>> {
        match node.kind {
            NodeKind::Call | NodeKind::Object(_) => {
                let work = Work::Term(Rc::as_ptr(node).addr());
                self.begin(work, || format!("Evaluating {}.", node.def.name.to_ascii_lowercase()))
            }
            NodeKind::Constant(_)
            | NodeKind::Variable(_)
            | NodeKind::Function(_)
            | NodeKind::StrayLiteral => None,
        }
    }

    pub fn asking(&self, op: &Op) -> Option<Span<'_>> {
        let description = match op {
            Op::Catalog(_) => "Consult the catalog.",
            Op::Read { .. } => "Perform read.",
            Op::Write { .. } => "Perform write.",
            Op::Random { .. } => "Draw random bytes.",
            Op::Outside(OutsideOp::Script(_)) => "Run a script.",
            Op::Outside(OutsideOp::Http(_)) => "Perform an HTTP request.",
            Op::Feed(_) => "Wait for changes.",
        };
        self.begin(Work::Op(description), || description.into())
    }

    fn begin(&self, work: Work, describe: impl FnOnce() -> String) -> Option<Span<'_>> {
        let began = self.elapsed();
        let tasks = &mut *self.tasks.borrow_mut();
        let parent = tasks.open.last().copied();
        let task = match tasks.places.get(&(parent, work)) {
            Some(&task) => task,
            None if tasks.all.len() >= limits::PROFILE_TASKS_MAX => return None,
            None => {
                let task = tasks.all.len();
                let description = describe();
                tasks.all.push(Task { description, duration: Duration::ZERO, samples: 0, parts: Vec::new() });
                tasks.places.insert((parent, work), task);
                if let Some(parent) = parent {
                    tasks.all[parent].parts.push(task);
                }
                task
            }
        };
        let depth = tasks.open.len();
        tasks.open.push(task);
        Some(Span { profile: self, task, depth, began })
    }

    /// The tasks since the last time, as JSON.
    pub fn take(&self) -> Vec<u8> {
        let tasks = self.tasks.take();
        let mut parts = vec![false; tasks.all.len()];
        for &part in tasks.all.iter().flat_map(|task| &task.parts) {
            parts[part] = true;
        }
        let roots: Vec<usize> = (0..tasks.all.len()).filter(|&task| !parts[task]).collect();
        let mut text = String::new();
        tasks.print(&roots, &mut text);
        text.into_bytes()
    }
}

impl Tasks {
    fn print(&self, tasks: &[usize], out: &mut String) {
        out.push('[');
        for (index, &task) in tasks.iter().enumerate() {
            let Task { description, duration, samples, parts } = &self.all[task];
            if index > 0 {
                out.push(',');
            }
            let milliseconds = duration.as_secs_f64() * 1000.0;
            // Writing to a string cannot fail.
            let _ = if *samples > 1 {
                let mean = milliseconds / f64::from(*samples);
                write!(
                    out,
                    r#"{{"description":"{description}","mean_duration(ms)":{mean:?},"n_samples":{samples},"#
                )
            } else {
                write!(out, r#"{{"description":"{description}","duration(ms)":{milliseconds:?},"#)
            };
            out.push_str(r#""sub_tasks":"#);
            self.print(parts, out);
            out.push('}');
        }
        out.push(']');
    }
}

/// A task under way.
pub struct Span<'a> {
    profile: &'a Profile,
    task: usize,
    depth: usize,
    began: Duration,
}

impl Drop for Span<'_> {
    fn drop(&mut self) {
        let duration = self.profile.elapsed().saturating_sub(self.began);
        let tasks = &mut *self.profile.tasks.borrow_mut();
        tasks.open.truncate(self.depth);
        if let Some(task) = tasks.all.get_mut(self.task) {
            task.duration += duration;
            task.samples += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use photondb_proto::term::parse::{Parser, QueryMessage};

    use super::*;
    use crate::exec::{AnswerKind, Context, Execution, Step};
    use crate::world::World;

    /// The profiles of a query's answers, on a clock that goes a millisecond further whenever it is looked at.
    #[track_caller]
    fn profiles(query: &str) -> Vec<String> {
        let mut world = World::new();
        world.answer(r#"[1,[56,[[15,["t"]],[2,[{"id":1},{"id":2},{"id":3}]]]]]"#);
        let mut bytes = query.as_bytes().to_vec();
        let Ok(QueryMessage::Start { term, options }) = Parser::default().parse(&mut bytes) else {
            panic!("not a START: {query}")
        };
        let context = Context { user: "admin".into(), now_epoch_seconds: 0.0, memory_bytes_max: 64 << 20 };
        let mut execution = Execution::start(&term.into(), options, context).expect("a sound query");
        let milliseconds = Cell::new(0);
        execution.time_with(move || Duration::from_millis(milliseconds.replace(milliseconds.get() + 1)));
        let mut profiles = Vec::new();
        loop {
            match execution.step(50) {
                Step::OutOfFuel => {}
                Step::Needs(op) => execution.answer(world.reply(op)),
                Step::Failed(error) => panic!("{error:?}"),
                Step::Ready(answer) => {
                    let text = answer.profile.map(|profile| String::from_utf8(profile).expect("JSON"));
                    profiles.push(text.unwrap_or_default());
                    if answer.kind != AnswerKind::Partial {
                        return profiles;
                    }
                    execution.next_batch();
                }
            }
        }
    }

    #[track_caller]
    fn check(query: &str, want: &[&str]) {
        let want: Vec<String> = want.iter().map(|profile| profile.replace('\'', "\"")).collect();
        assert_eq!(profiles(query), want, "{query}");
    }

    #[test]
    fn tasks_nest_as_terms_do_and_say_how_long_they_took() {
        check(
            r#"[1,[16,[[15,["t"]],1]],{"profile":true}]"#,
            &["[{'description':'Evaluating get.','duration(ms)':5.0,'sub_tasks':[\
                {'description':'Evaluating table.','duration(ms)':3.0,'sub_tasks':[\
                {'description':'Consult the catalog.','duration(ms)':1.0,'sub_tasks':[]}]}]},\
               {'description':'Perform read.','duration(ms)':1.0,'sub_tasks':[]}]"],
        );
        check(
            r#"[1,[24,[[43,[[15,["t"]]]],[24,[2,3]]]],{"profile":true}]"#,
            &["[{'description':'Evaluating add.','duration(ms)':11.0,'sub_tasks':[\
                {'description':'Evaluating count.','duration(ms)':7.0,'sub_tasks':[\
                {'description':'Evaluating table.','duration(ms)':3.0,'sub_tasks':[\
                {'description':'Consult the catalog.','duration(ms)':1.0,'sub_tasks':[]}]},\
                {'description':'Perform read.','duration(ms)':1.0,'sub_tasks':[]}]},\
                {'description':'Evaluating add.','duration(ms)':1.0,'sub_tasks':[]}]}]"],
        );
    }

    #[test]
    fn what_is_done_again_is_told_once_with_its_mean() {
        let lookup = r#"[69,[[2,[1]],[16,[[15,["t"]],[10,[1]]]]]]"#;
        let [told] = &profiles(&format!(r#"[1,[38,[[2,[1,2,3]],{lookup}]],{{"profile":true}}]"#))[..] else {
            panic!("one answer")
        };
        assert!(told.contains(r#"{"description":"Evaluating get.","mean_duration(ms)":"#), "{told}");
        assert!(told.contains(r#""n_samples":3,"#), "{told}");
        assert_eq!(told.matches("Evaluating get.").count(), 1, "{told}");
    }

    #[test]
    fn every_batch_has_its_own_profile_and_only_if_asked_for() {
        let options = r#"{"profile":true,"max_batch_rows":2}"#;
        let batches = profiles(&format!(r#"[1,[15,["t"]],{options}]"#));
        assert_eq!(batches.len(), 2);
        assert!(batches[0].contains("Evaluating table."), "{batches:?}");
        assert!(!batches[1].contains("Evaluating table."), "{batches:?}");
        assert_eq!(profiles(r#"[1,[15,["t"]],{"profile":false}]"#), [""]);
    }
}
