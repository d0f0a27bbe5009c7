//! How names and files are looked up.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use tokio::io::AsyncReadExt;
use tokio::sync::OnceCell;

/// A look that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A longer file is no list of workers.
const FILE_BYTES: u64 = 1 << 20;

/// Answers of the world; scripted in tests. An error is one line for people.
pub(in crate::upstream) trait Look: Send + 'static {
    /// `HOST:PORT` of a worker at each address of a name.
    fn addresses(&self, name: &str, port: u16) -> impl Future<Output = Result<Vec<String>, String>> + Send;
    /// `HOST:PORT` of the worker of each SRV record of a name.
    fn services(&self, name: &str) -> impl Future<Output = Result<Vec<String>, String>> + Send;
    /// The text of a file.
    fn file(&self, path: &Path) -> impl Future<Output = Result<String, String>> + Send;
}

/// What the system says.
#[derive(Debug, Default)]
pub(in crate::upstream) struct System {
    /// Made when it is first needed.
    resolver: OnceCell<TokioResolver>,
}

impl Look for System {
    async fn addresses(&self, name: &str, port: u16) -> Result<Vec<String>, String> {
        let found = soon(tokio::net::lookup_host((name, port))).await?;
        let mut workers: Vec<String> = found.map(|address| address.to_string()).collect();
        // A name server gives them in another order each time.
        workers.sort_unstable();
        if workers.is_empty() { Err(format!("{name} has no address")) } else { Ok(workers) }
    }

    async fn services(&self, name: &str) -> Result<Vec<String>, String> {
        let resolver = self.resolver.get_or_try_init(|| async { resolver(TokioResolver::builder_tokio()?) });
        let resolver = resolver.await.map_err(|error: NetError| error.to_string())?;
        let found = soon(resolver.srv_lookup(name)).await?;
        let records = found.answers().iter().filter_map(|record| match &record.data {
            RData::SRV(service) => Some(service),
            _ => None,
        });
        let workers = first_choice(records);
        if workers.is_empty() { Err(format!("{name} has no SRV record")) } else { Ok(workers) }
    }

    async fn file(&self, path: &Path) -> Result<String, String> {
        let reading = async {
            let mut text = String::new();
            let file = tokio::fs::File::open(path).await?;
            file.take(FILE_BYTES + 1).read_to_string(&mut text).await?;
            if text.len() as u64 > FILE_BYTES {
                return Err(io::Error::new(ErrorKind::FileTooLarge, format!("is longer than {FILE_BYTES} bytes")));
            }
            Ok(text)
        };
        soon(reading).await
    }
}

/// A resolver that remembers nothing: whoever looks again wants to know what is there now.
fn resolver(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<TokioResolver, NetError> {
    builder.options_mut().cache_size = 0;
    builder.build()
}

/// The workers of the records that come first: those of the lowest priority. Weights do not matter, for work is not
/// given out at random.
fn first_choice<'a>(records: impl Iterator<Item = &'a SRV> + Clone) -> Vec<String> {
    let first = records.clone().map(|service| service.priority).min();
    let chosen = records.filter(|service| Some(service.priority) == first);
    let worker = |service: &SRV| format!("{}:{}", service.target.to_utf8().trim_end_matches('.'), service.port);
    let mut workers: Vec<String> = chosen.map(worker).collect();
    workers.sort_unstable();
    workers
}

async fn soon<T, E: ToString>(look: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, look).await {
        Ok(found) => found.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer in {PATIENCE:?}")),
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
    use hickory_resolver::proto::op::{Message, OpCode};
    use hickory_resolver::proto::rr::{Name, Record};
    use tokio::net::UdpSocket;

    use super::*;

    fn record(priority: u16, port: u16, target: &str) -> SRV {
        SRV::new(priority, 7, port, Name::from_utf8(target).unwrap())
    }

    /// A name server that has these records for whoever asks.
    async fn serve(socket: &UdpSocket, records: &[SRV]) {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let asked = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(asked.metadata.id, OpCode::Query);
            answer.add_query(asked.queries[0].clone());
            for service in records {
                answer.add_answer(Record::from_rdata(asked.queries[0].name().clone(), 60, RData::SRV(service.clone())));
            }
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_name_server_is_asked_each_time() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(address.ip(), true, vec![connection]);
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let system = System { resolver: OnceCell::new_with(Some(resolver(builder).unwrap())) };
        let look = async |records: &[SRV]| {
            tokio::select! {
                found = system.services("_grpc._tcp.pool.test") => found,
                () = serve(&socket, records) => panic!("it serves for ever"),
            }
        };
        assert_eq!(look(&[record(0, 1, "a.test."), record(0, 2, "b.test.")]).await.unwrap(), ["a.test:1", "b.test:2"]);
        assert_eq!(look(&[record(0, 2, "b.test.")]).await.unwrap(), ["b.test:2"]);
        assert!(look(&[]).await.is_err());
    }

    #[test]
    fn the_records_of_the_lowest_priority_are_the_pool() {
        let records = [record(20, 1, "spare."), record(10, 50052, "b.pool."), record(10, 50053, "a.pool.")];
        assert_eq!(first_choice(records.iter()), ["a.pool:50053", "b.pool:50052"]);
        assert_eq!(first_choice([].iter()), [""; 0]);
    }

    #[tokio::test]
    async fn a_file_is_read_as_it_is_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("workers");
        let system = System::default();
        assert!(system.file(&path).await.is_err());
        for text in ["http://a:1\n", ""] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(system.file(&path).await.unwrap(), text);
        }
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert_eq!(system.file(&path).await.unwrap_err(), "is longer than 1048576 bytes");
    }

    #[tokio::test]
    async fn an_address_is_its_own_name() {
        assert_eq!(System::default().addresses("127.0.0.1", 7).await.unwrap(), ["127.0.0.1:7"]);
    }
}
