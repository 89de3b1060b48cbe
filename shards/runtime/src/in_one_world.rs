//! All cores of a server in one world on one thread: how the simulator runs the whole data plane, unchanged, under a clock and
//! a chance of its own.
//!
//! Always: cores know each other through their rings alone, as on threads of their own. There are no listeners: connections
//! are handed in.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::future::join_all;
use photondb_proto::wire::scram::Credential;

use crate::core::{Core, SlowWork};
use crate::env::{Env, Stream};
use crate::mesh::endpoints;
use crate::start::{CorePlan, recover, serve_peers};
use crate::{DataPlaneOptions, StartError, construct, session};

/// A server that runs.
pub struct CoresInOneWorld<E: Env> {
    cores: Vec<Rc<Core<E>>>,
}

impl<E: Env> CoresInOneWorld<E> {
    /// Recovers as many cores as `options` has CPUs, each with one store.
    ///
    /// # Errors
    /// A store cannot be opened.
    pub async fn start(env: &E, options: DataPlaneOptions) -> Result<Self, StartError> {
        let count = options.cpus.len() as u16;
        let options = Arc::new(options);
        let (slow_work, work) = flume::unbounded::<SlowWork>();
        env.spawn(async move {
            while let Ok(work) = work.recv_async().await {
                work();
            }
        });
        let catalogs: Vec<_> = (0..count).map(|_| flume::bounded(1)).collect();
        let catalog_out: Vec<_> = catalogs[1..].iter().map(|(out, _)| out.clone()).collect();
        let recovered = endpoints(count).into_iter().zip(catalogs).enumerate().map(
            |(number, (endpoint, (_, catalog_in)))| {
                let plan = CorePlan {
                    number: number as u16,
                    endpoint,
                    own_stores: vec![number as u16],
                    stores: count,
                    options: options.clone(),
                    initial_credential: None::<Credential>,
                    catalog_in,
                    catalog_out: if number == 0 { catalog_out.clone() } else { Vec::new() },
                    slow_work: slow_work.clone(),
                    server: Arc::new(options.server.clone()),
                };
                recover(env.clone(), plan)
            },
        );
        let mut cores = Vec::new();
        for core in join_all(recovered).await {
            cores.push(core?.0);
        }
        for core in &cores {
            serve_peers(core);
            construct::begin(core);
        }
        Ok(CoresInOneWorld { cores })
    }

    /// Serves a connection on one of the cores.
    pub fn connect(&self, core: u64, stream: impl Stream) {
        let core = &self.cores[core as usize % self.cores.len()];
        core.env.spawn(session::serve(core.clone(), stream, None));
    }
}
