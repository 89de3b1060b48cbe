//! What rows are made of that is not in the catalog: told by every core, and by those who keep the log.
//!
//! Always: gathered once for a read, as plain data. A core that does not answer any more is left out.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;
use photondb_proto::op::{Document, TableId};

use super::Needs;
use crate::core::{Answer, Construction, Core, CoreFigures, Question, Request, Told};
use crate::env::Env;
use crate::jobs::RunningQuery;
use crate::table::TableFigures;
use crate::{LogLine, ServerFacts};

/// See the head of this file. What a table does not need is empty.
pub struct Facts {
    pub server: Arc<ServerFacts>,
    pub driver_port: u16,
    /// Without those of their tables, which are added up.
    pub figures: Vec<CoreFigures>,
    pub tables: BTreeMap<TableId, TableFigures>,
    pub queries: Vec<RunningQuery>,
    /// Of each core its part.
    pub constructions: Vec<Construction>,
    pub log: Vec<LogLine>,
    /// The rows of `_debug_scratch`.
    pub scratch: Vec<Document>,
}

impl Facts {
    pub async fn gather<E: Env>(core: &Rc<Core<E>>, needs: Needs) -> Facts {
        let mut facts = Facts {
            server: core.server.clone(),
            driver_port: core.driver_port.get(),
            figures: Vec::new(),
            tables: BTreeMap::new(),
            queries: Vec::new(),
            constructions: Vec::new(),
            log: Vec::new(),
            scratch: Vec::new(),
        };
        match needs {
            Needs::Nothing => {}
            Needs::Figures => facts.ask(core, Question::Figures).await,
            Needs::Queries => facts.ask(core, Question::Queries).await,
            Needs::Scratch => facts.ask(core, Question::Scratch).await,
            Needs::Log => {
                if let Some(log) = facts.server.log.clone() {
                    facts.log = core.slowly(move || log()).await.unwrap_or_default();
                }
            }
        }
        facts
    }

    async fn ask<E: Env>(&mut self, core: &Rc<Core<E>>, question: Question) {
        for told in join_all((0..core.mesh.cores()).map(|peer| tell(core, peer, question))).await {
            match told {
                Some(Told::Figures(mut figures)) => {
                    for part in std::mem::take(&mut figures.tables) {
                        let whole = self.tables.entry(part.table);
                        whole.or_insert_with(|| TableFigures::none(part.table)).add(&part);
                    }
                    self.figures.push(*figures);
                }
                Some(Told::Queries(queries, constructions)) => {
                    self.queries.extend(queries);
                    self.constructions.extend(constructions);
                }
                Some(Told::Scratch(rows)) => self.scratch.extend(rows),
                Some(Told::Interrupt(_)) | None => {}
            }
        }
    }

    /// The sum of something over the cores.
    pub fn sum(&self, of: impl Fn(&CoreFigures) -> f64) -> f64 {
        self.figures.iter().map(of).sum()
    }
}

/// Asks one core.
pub async fn tell<E: Env>(core: &Rc<Core<E>>, peer: u16, question: Question) -> Option<Told> {
    if peer == core.number {
        return Some(core.tell(question));
    }
    match core.mesh.request(peer, Request::Tell(question)).await {
        Answer::Told(told) => Some(told),
        Answer::Read(_)
        | Answer::Write(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Constructed(_)
        | Answer::Progress(_)
        | Answer::Feed(_)
        | Answer::Stale { .. } => None,
    }
}
