//! A client of a simulated server: the driver protocol over a simulated connection.

use std::future::poll_fn;

use photondb_proto::wire::client::{ClientHandshake, ClientProgress, Response, ResponseDecoder};
use photondb_proto::wire::frame::write_query;
use photondb_runtime::env::{Env, Stream, StreamEnd};
use photondb_runtime::in_one_world::CoresInOneWorld;
use serde_json::{Value, json};

use crate::Simulation;
use crate::env::{SimulatedStream, connection};

pub struct Client {
    stream: SimulatedStream,
    decoder: ResponseDecoder,
    token: i64,
}

impl Client {
    /// Connects to one of the cores and logs in. Time may leap in this world, and a server give up a handshake: then again.
    pub async fn connect<E: Env>(
        simulation: &Simulation,
        server: &CoresInOneWorld<E>,
    ) -> Result<Client, StreamEnd> {
        for _ in 0..50 {
            if let Ok(client) = Client::greet(simulation, server).await {
                return Ok(client);
            }
        }
        Err(StreamEnd)
    }

    async fn greet<E: Env>(
        simulation: &Simulation,
        server: &CoresInOneWorld<E>,
    ) -> Result<Client, StreamEnd> {
        let (near, far) = connection(simulation);
        server.connect(simulation.random(|random| random.below(1 << 20)), far);
        let mut client = Client { stream: near, decoder: ResponseDecoder::default(), token: 0 };
        let mut out = Vec::new();
        let mut handshake = ClientHandshake::new("admin", "", [7; 18], &mut out);
        loop {
            client.write(&std::mem::take(&mut out)).await?;
            let bytes = client.read().await?;
            match handshake.push(&bytes, &mut out) {
                Ok(ClientProgress::Done) => return Ok(client),
                Ok(_) => {}
                Err(error) => panic!("the handshake fails: {error:?}"),
            }
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StreamEnd> {
        while !bytes.is_empty() {
            let taken = poll_fn(|context| self.stream.poll_write(context, bytes)).await?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<Vec<u8>, StreamEnd> {
        let mut buffer = vec![0; 16 << 10];
        match poll_fn(|context| self.stream.poll_read(context, &mut buffer)).await? {
            0 => Err(StreamEnd),
            count => {
                buffer.truncate(count);
                Ok(buffer)
            }
        }
    }

    pub async fn send(&mut self, query: &str) -> Result<i64, StreamEnd> {
        self.token += 1;
        self.send_as(self.token, query).await?;
        Ok(self.token)
    }

    pub async fn send_as(&mut self, token: i64, query: &str) -> Result<(), StreamEnd> {
        let mut out = Vec::new();
        write_query(token, query.as_bytes(), &mut out);
        self.write(&out).await
    }

    pub async fn receive(&mut self) -> Result<Response, StreamEnd> {
        loop {
            if let Some(response) = self.decoder.next_response().expect("responses can be read") {
                return Ok(response);
            }
            let bytes = self.read().await?;
            self.decoder.push(&bytes);
        }
    }

    /// Carries out a query to its end; an array holds the elements of a sequence.
    pub async fn run(&mut self, term: &Value) -> Result<Value, StreamEnd> {
        let token = self.send(&json!([1, term, {}]).to_string()).await?;
        let mut all = Vec::new();
        loop {
            let response = self.receive().await?;
            assert!(response.error().is_none(), "{term}: {response:?}");
            match response.response_type {
                1 => return Ok(response.results.into_iter().next().unwrap_or(Value::Null)),
                kind => {
                    all.extend(response.results);
                    if kind == 2 {
                        return Ok(Value::Array(all));
                    }
                }
            }
            self.send_as(token, "[2]").await?;
        }
    }
}
