//! What every face of the gateway calls, whatever its protocol: one way from a request to its answer.

use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tessera_api::gateway::{EncodeRequest, Encoded, Event, GenerateRequest, Input};
use tessera_api::{Error, ErrorKind, FieldViolation, Result};
use tessera_rpc::{Deadline, Tasks};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use crate::admission::{Admission, Admitted, Class, Cost, Entry};
use crate::answer::Answer;
use crate::defaults;
use crate::encode::{self, Encodes};
use crate::prepare::{Pools, Preparer};
use crate::settings::{LimitSettings, Settings};
use crate::tenant::{Tenant, Tenants};
use crate::upstream::Upstream;
use crate::urls::Fetcher;

/// Events that may wait for a slow reader.
const EVENTS: usize = 64;
/// Longest request id that a client may choose.
const MAX_REQUEST_ID: usize = 128;

/// The events of an answer. To drop it ends the request and frees what it held.
pub(crate) type Events = ReceiverStream<Result<Event>>;

/// The gateway behind its faces.
#[derive(Debug)]
pub(crate) struct Front {
    /// Who may ask.
    pub(crate) tenants: Arc<Tenants>,
    pub(crate) preparer: Arc<Preparer>,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) encodes: Encodes,
    /// Where images by URL are fetched.
    pub(crate) urls: Option<Arc<Fetcher>>,
    /// What clients call the model.
    pub(crate) served: Served,
    pub(crate) limits: LimitSettings,
    pub(crate) admission: Arc<Admission>,
    pub(crate) tasks: Tasks,
}

impl Front {
    /// Answers a conversation, or continues a prompt.
    ///
    /// # Errors
    /// What is wrong with the request, or that the pools cannot take it: nothing has begun then.
    pub(crate) async fn generate(
        &self,
        tenant: &Arc<Tenant>,
        request: GenerateRequest,
        deadline: Deadline,
    ) -> Result<Events> {
        let least = Cost { tiles: usize::from(request.input.has_images()), tokens: 1 };
        let entry = self.admission.enter(tenant, Class::Interactive, least, deadline)?;
        let answer = self.prepare(entry, request, deadline).await?;
        let (sender, events) = mpsc::channel(EVENTS);
        self.tasks.spawn(answer.run(sender));
        Ok(ReceiverStream::new(events))
    }

    /// Encodes an image and keeps it. It is in progress until the second value is dropped.
    ///
    /// # Errors
    /// Of the image or of the vision pool, or that it cannot take the image now.
    pub(crate) async fn encode(
        &self,
        tenant: &Arc<Tenant>,
        request: EncodeRequest,
        deadline: Deadline,
    ) -> Result<(Encoded, Admitted)> {
        let entry = self.admission.enter(tenant, Class::Interactive, encode::LEAST, deadline)?;
        self.encodes.encode(entry, request, deadline).await
    }

    /// Makes the prompt of an input, of which nothing is encoded and nothing generated.
    ///
    /// # Errors
    /// What is wrong with it, or that there are too many requests.
    pub(crate) async fn tokenize(
        &self,
        tenant: &Arc<Tenant>,
        mut input: Input,
        deadline: Deadline,
    ) -> Result<Tokenized> {
        let entry = self.admission.enter(tenant, Class::Interactive, Cost::default(), deadline)?;
        let deadline = deadline.within(self.limits.time);
        let pools = self.look(tenant, &mut input, deadline).await?;
        let (preparer, of, context) = (self.preparer.clone(), tenant.clone(), pools.context);
        let (prompt, _) = self.compute(deadline, move || preparer.prompt(&of, input, &pools)).await?;
        drop(entry);
        Ok(Tokenized { token_ids: prompt.ids, context })
    }

    /// Checks an input, asks the pools what preparing it needs to know, and fetches its images by URL.
    async fn look(&self, tenant: &Tenant, input: &mut Input, deadline: Deadline) -> Result<Pools> {
        self.preparer.check(input)?;
        let has_images = input.has_images();
        let fingerprint = async {
            // Without images nothing depends on the vision pool, which may then be down.
            if has_images { self.upstream.fingerprint(deadline).await.map(Some) } else { Ok(None) }
        };
        let handles = input.handles();
        let stored = async {
            if handles.is_empty() { Ok(Vec::new()) } else { self.upstream.stat(tenant.id, &handles, deadline).await }
        };
        let (fingerprint, context, stored) = tokio::try_join!(fingerprint, self.upstream.context(deadline), stored)?;
        if let Some(urls) = &self.urls {
            urls.fetch(input, self.limits.request.as_u64(), deadline).await?;
        }
        Ok(Pools { fingerprint, context, stored })
    }

    /// Runs what computes for milliseconds where it holds up nobody.
    ///
    /// # Errors
    /// Its own, or that the time is over.
    pub(crate) async fn compute<T: Send + 'static>(
        &self,
        deadline: Deadline,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let working = self.tasks.spawn_blocking(work);
        let working = async { AbortOnDropHandle::new(working).await.map_err(|_| crashed())? };
        deadline.bound("the request was being prepared", working).await
    }

    /// Prepares a request and admits it, so that what is wrong with it is said before any stream starts.
    async fn prepare(&self, entry: Entry, mut request: GenerateRequest, deadline: Deadline) -> Result<Answer> {
        let received = Instant::now();
        let request_id = request_id(&request)?;
        let tenant = Arc::clone(&entry.tenant);
        tracing::debug!(request_id, tenant = tenant.name, "a request is being prepared");
        let deadline = deadline.within(self.limits.time);
        let pools = self.look(&tenant, &mut request.input, deadline).await?;
        let (preparer, of) = (self.preparer.clone(), tenant.clone());
        let prepared = self.compute(deadline, move || preparer.prepare(&of, request, &pools)).await?;
        let admitted = entry.admit(prepared.cost(), deadline).await?;
        let (upstream, preparer) = (self.upstream.clone(), self.preparer.clone());
        let continuations = self.limits.continuations;
        Ok(Answer { request_id, tenant, received, deadline, upstream, preparer, prepared, admitted, continuations })
    }
}

/// The model as clients that name one know it.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) name: String,
    /// When the gateway began.
    pub(crate) since: SystemTime,
}

impl Served {
    /// The model that these settings name, or else the folder of its checkpoint.
    pub(crate) fn of(settings: &Settings) -> Self {
        let folder = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = match settings.model_name.as_str() {
            // A path such as `.` has no name of its own.
            "" => folder(&settings.model).or_else(|| folder(&settings.model.canonicalize().ok()?)).unwrap_or_default(),
            name => name.to_owned(),
        };
        Self { name, since: SystemTime::now() }
    }

    /// Checks that a client means this model.
    ///
    /// # Errors
    /// `NotFound` for any other name.
    pub(crate) fn check(&self, name: &str) -> Result<()> {
        if name == self.name {
            return Ok(());
        }
        let description = format!("{name:?} is not served here: {:?} is", self.name);
        let error = Error::new(ErrorKind::NotFound, "MODEL_NOT_FOUND", format!("model: {description}"));
        let fields = vec![FieldViolation { field: "model".to_owned(), description }];
        Err(Error { fields, ..error.with("served", &self.name) })
    }
}

/// The prompt that something would be, without an answer.
#[derive(Debug)]
pub(crate) struct Tokenized {
    pub(crate) token_ids: Vec<u32>,
    /// The longest sequence that the language pool takes.
    pub(crate) context: usize,
}

/// The client's name for the request, or one that we make.
fn request_id(request: &GenerateRequest) -> Result<String> {
    let id = &request.request_id;
    if id.len() > MAX_REQUEST_ID || id.chars().any(char::is_control) {
        let description = format!("must be at most {MAX_REQUEST_ID} bytes without control characters");
        return Err(Error::field("REQUEST_ID_INVALID", "request_id", description));
    }
    Ok(if id.is_empty() { format!("{:016x}", defaults::random()) } else { id.clone() })
}

fn crashed() -> Error {
    Error::new(ErrorKind::Internal, "PREPARE_FAILED", "preparing the request failed")
}
