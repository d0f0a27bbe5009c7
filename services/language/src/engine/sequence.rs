//! The state of one generation: its branches, its images, and who listens.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tessera_api::Result;
use tessera_api::language::{
    BeamSearch, Begun, Event, FinishReason, GenerateRequest, ImageReference, Logprobs, Sampling,
};
use tessera_embedding::ImageKey;
use tessera_rpc::Deadline;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::beams::Beams;
use super::blocks::Blocks;
use super::branch::{Branch, Placed};
use super::chain::BlockHash;
use super::guide::Guide;
use super::listener::Listener;
use super::sampler::Sampler;
use super::scheduler::Wanted;
use crate::constraint::{MaskPool, Matcher};

/// Name of a sequence in one engine, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SequenceId(pub u64);

/// What is asked of a sequence once its prompt is computed. Fixed when it is made.
#[derive(Debug)]
pub(super) struct Wishes {
    /// Answers wanted.
    pub(super) samples: usize,
    /// Search instead of choosing a token at a time.
    pub(super) beam_search: Option<BeamSearch>,
    /// How tokens are chosen.
    pub(super) sampling: Arc<Sampling>,
    /// Ids that end an answer.
    pub(super) end_token_ids: Arc<[u32]>,
    /// New tokens at most, of each answer.
    pub(super) max_new_tokens: usize,
    /// Likeliest tokens to tell of with every new one.
    pub(super) logprobs: Option<usize>,
}

/// One generation. First one branch computes the prompt; then there is one for each sample or beam. One that is continued is
/// what a preempted one is: it has the branches already, and the first that goes on computes the prompt for all.
#[derive(Debug)]
pub struct Sequence {
    /// Its name.
    pub id: SequenceId,
    pub(super) wishes: Wishes,
    /// Positions that were given: the prompt.
    pub(super) given: usize,
    pub(super) branches: Vec<Branch>,
    /// True when the branches are the samples or beams.
    pub(super) is_branched: bool,
    /// True when its answers are held to a form.
    pub(super) is_constrained: bool,
    /// True when it is known how much of its prompt was not computed: from its first scores on.
    pub(super) is_counted: bool,
    pub(super) listener: Listener,
    /// Likeliest tokens to tell of at every position of the prompt; `None` once that is told.
    pub(super) prompt_logprobs: Option<usize>,
    /// What there is of that so far.
    pub(super) prompt_scores: Vec<Logprobs>,
    /// The search, where one was asked for and is not over.
    pub(super) beams: Option<Beams>,
    /// What the first block of its prefix follows.
    root: BlockHash,
    placed: Vec<Placed>,
    images: Vec<Image>,
    deadline: Deadline,
    /// Its place among the sequences that may exist; free again when it is dropped.
    _admission: OwnedSemaphorePermit,
}

/// An image of the prompt, and where its features are.
#[derive(Debug)]
struct Image {
    reference: ImageReference,
    features: Features,
}

/// Where the features of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Features {
    /// Not here: not asked for yet, or let go.
    Absent,
    /// Asked for.
    Awaited,
    /// With the model.
    Here,
}

/// Features that a sequence needs now.
#[derive(Debug)]
pub struct Pull {
    /// Whose.
    pub id: SequenceId,
    /// Which of its images.
    pub index: usize,
    /// What to pull, and from where.
    pub image: ImageReference,
    /// When the sequence must be over.
    pub deadline: Deadline,
    /// Tells when nobody listens any more.
    pub listener: mpsc::WeakSender<Result<Event>>,
}

impl Sequence {
    /// Makes a sequence of which nothing is computed.
    pub fn new(
        id: SequenceId,
        request: GenerateRequest,
        deadline: Deadline,
        events: mpsc::Sender<Result<Event>>,
        admission: OwnedSemaphorePermit,
    ) -> Self {
        let given = request.token_ids.len();
        let beam_search = request.beam_search;
        let wishes = Wishes {
            samples: request.samples.get(),
            beam_search,
            sampling: Arc::new(request.sampling),
            end_token_ids: request.end_token_ids.into(),
            max_new_tokens: request.max_new_tokens.get(),
            logprobs: request.logprobs,
        };
        let beams = beam_search.map(|search| wishes.beams(search, &request.token_ids));
        let placed = request.images.iter().map(|image| Placed { key: image.key, positions: image.positions.clone() });
        let placed = placed.collect();
        let images = request.images.into_iter().map(|reference| Image { reference, features: Features::Absent });
        let is_branched = !request.begun.is_empty();
        let has_heard = request.begun.iter().any(|begun| !begun.token_ids.is_empty());
        Self {
            id,
            given,
            branches: wishes.branches(request.token_ids, request.begun),
            is_branched,
            is_constrained: false,
            is_counted: false,
            listener: Listener::new(request.request_id, events, has_heard),
            prompt_logprobs: request.prompt_logprobs,
            prompt_scores: Vec::new(),
            beams,
            root: BlockHash::root(&request.salt),
            placed,
            images: images.collect(),
            deadline,
            wishes,
            _admission: admission,
        }
    }

    /// How many events a sequence tells at most.
    pub fn most_events(request: &GenerateRequest) -> usize {
        // A token or the end of each sample, the prompt's log-probabilities, and an error.
        request.samples.get() * (request.max_new_tokens.get() + 1) + 2
    }

    /// Holds its answers to a form. `matchers`: where those that go on stand in it, in order.
    pub(super) fn hold_to(&mut self, pool: &Arc<MaskPool>, matchers: Vec<Matcher>) {
        self.is_constrained = true;
        let live = self.branches.iter_mut().filter(|branch| !branch.ended);
        for (branch, matcher) in live.zip(matchers) {
            let is_formed = branch.tokens.len() > self.given && matcher.is_complete();
            branch.guide = (!is_formed).then(|| Guide::new(pool.clone(), matcher));
        }
    }

    /// Begins: answers that are complete with what there is of them end, and the others wait for the first.
    pub(super) fn begin(&mut self) {
        for sample in 0..self.branches.len() {
            self.end_if_complete(sample);
        }
        self.wait_for_the_first();
    }

    /// Ends an answer that is complete with its last token; returns whether it is.
    pub(super) fn end_if_complete(&mut self, sample: usize) -> bool {
        let branch = &mut self.branches[sample];
        let answer = &branch.tokens[self.given..];
        let is_formed = self.is_constrained && branch.guide.is_none();
        let reason = if branch.ended { None } else { self.wishes.end(answer, is_formed) };
        if let Some(reason) = reason {
            branch.ended = true;
            self.listener.tell_finished(sample, reason);
        }
        reason.is_some()
    }

    /// The first branch that goes on computes the prompt; the others follow behind it.
    fn wait_for_the_first(&mut self) {
        let first = self.first();
        for (index, branch) in self.branches.iter_mut().enumerate() {
            branch.waits = index != first && !branch.ended;
        }
    }

    /// When it must be over.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Answers that are followed at once: samples or beams.
    pub fn width(&self) -> usize {
        self.wishes.beam_search.map_or(self.wishes.samples, |search| search.beams)
    }

    /// True when every answer is over.
    pub(super) fn is_over(&self) -> bool {
        self.branches.iter().all(|branch| branch.ended)
    }

    /// The first branch that goes on: after a preemption the one that computes what was given.
    pub(super) fn first(&self) -> usize {
        self.branches.iter().position(|branch| !branch.ended).unwrap_or(0)
    }

    /// Blocks that it needs to go on from nothing and make one more token of each answer.
    pub(super) fn blocks_to_start(&self) -> usize {
        let shared = self.given / super::BLOCK_POSITIONS;
        let live = self.branches.iter().filter(|branch| !branch.ended);
        shared + live.map(|branch| Blocks::needed(branch.tokens.len() + 1) - shared).sum::<usize>()
    }

    /// Positions of a branch that can be computed now: up to the first image whose features have not come. None for a
    /// branch that waits for another one to compute what was given.
    pub(super) fn ready(&self, branch: usize) -> Range<usize> {
        let Branch { computed, waits, ended, .. } = self.branches[branch];
        if ended || waits {
            return computed..computed;
        }
        let missing =
            |(placed, image): &(&Placed, &Image)| placed.positions.end > computed && image.features != Features::Here;
        let missing = self.placed.iter().zip(&self.images).find(missing);
        let end = missing.map_or(self.branches[branch].tokens.len(), |(placed, _)| placed.positions.start);
        computed..end.max(computed)
    }

    /// True when the one position left of a branch is the token that was chosen last.
    pub(super) fn is_decoding(&self, branch: usize) -> bool {
        let Branch { computed, tokens, .. } = &self.branches[branch];
        *computed >= self.given && computed + 1 == tokens.len()
    }

    /// What of the scores after its last token the next token of a branch is chosen by. Of samples that begin together the
    /// same: what they differ in is the draw.
    pub(super) fn wanted(&self, branch: usize) -> Wanted {
        let Branch { sampler, guide, tokens, .. } = &self.branches[branch];
        let looks_closer = self.wishes.beam_search.is_some() || self.wishes.logprobs.is_some() || guide.is_some();
        let is_alone = self.is_branched || self.wishes.samples == 1;
        if looks_closer { Wanted::Last } else { sampler.wants(tokens.len(), is_alone) }
    }

    /// What rows of a branch are.
    pub(super) fn runs(&self, branch: usize, positions: Range<usize>) -> Vec<super::chain::Run<'_>> {
        super::branch::runs(&self.branches[branch].tokens, &self.placed, positions)
    }

    /// Lets a branch go on behind blocks that are in the cache. A prompt whose scores are wanted is computed whole.
    pub(super) fn reuse(&mut self, branch: usize, blocks: &mut Blocks) {
        if self.prompt_logprobs.is_some() {
            return;
        }
        let before = self.branches[branch].computed.min(self.given);
        self.branches[branch].reuse(&self.root, &self.placed, blocks);
        if !self.is_counted && branch == self.first() {
            self.listener.reused += self.branches[branch].computed.min(self.given) - before;
        }
    }

    /// The features that are needed and were not asked for; they count as asked for from now on.
    pub(super) fn pulls(&mut self) -> Vec<Pull> {
        if self.images.is_empty() {
            return Vec::new();
        }
        let active = self.branches.iter().filter(|branch| !branch.ended && !branch.waits);
        let computed = active.map(|branch| branch.computed).min().unwrap_or(usize::MAX);
        let (id, deadline) = (self.id, self.deadline);
        let mut pulls = Vec::new();
        for (index, image) in self.images.iter_mut().enumerate() {
            if image.features == Features::Absent && image.reference.positions.end > computed {
                image.features = Features::Awaited;
                let listener = self.listener.weak();
                pulls.push(Pull { id, index, image: image.reference.clone(), deadline, listener });
            }
        }
        if self.images.iter().all(|image| image.features != Features::Awaited) {
            self.listener.note_features();
        }
        pulls
    }

    /// The image that arrived, if it is awaited.
    pub(super) fn awaited(&self, index: usize) -> Option<ImageKey> {
        let image = self.images.get(index).filter(|image| image.features == Features::Awaited)?;
        Some(image.reference.key)
    }

    /// Notes that the features of an image are with the model.
    pub(super) fn image_arrived(&mut self, index: usize) {
        self.images[index].features = Features::Here;
        if self.images.iter().all(|image| image.features != Features::Awaited) {
            self.listener.note_features();
        }
    }

    /// Notes that features came while they were of no use: they are asked for again when they are.
    pub(super) fn image_came_too_early(&mut self, index: usize) {
        self.images[index].features = Features::Absent;
    }

    /// Notes that rows of a branch were computed. Branches that waited for them go on behind them.
    pub(super) fn advance(&mut self, branch: usize, rows: usize, blocks: &mut Blocks) {
        self.branches[branch].advance(rows, &self.root, &self.placed, blocks);
        if self.branches[branch].computed < self.given {
            return;
        }
        for other in 0..self.branches.len() {
            if self.branches[other].waits {
                // Its next token is chosen by the scores after its last.
                let shared = self.given.min(self.branches[other].tokens.len() - 1);
                let (table, computed) = self.branches[branch].share(shared, blocks);
                let other = &mut self.branches[other];
                (other.table, other.computed, other.waits) = (table, computed, false);
            }
        }
    }

    /// Images whose rows no branch needs any more: the model may let go of them.
    pub(super) fn finished_images(&mut self) -> Vec<ImageKey> {
        if self.images.iter().all(|image| image.features != Features::Here) {
            return Vec::new();
        }
        let live = self.branches.iter().filter(|branch| !branch.ended);
        let computed = live.map(|branch| branch.computed).min().unwrap_or(usize::MAX);
        self.let_go(|image| image.reference.positions.end <= computed)
    }

    /// Takes every block from it; returns the images that the model may let go of. Should it go on, its first branch
    /// computes for all what was given.
    pub(super) fn release(&mut self, blocks: &mut Blocks) -> Vec<ImageKey> {
        self.prompt_scores.clear();
        if !self.is_counted {
            self.listener.reused = 0;
        }
        self.branches.iter_mut().rev().for_each(|branch| branch.release(blocks));
        self.wait_for_the_first();
        self.let_go(|_| true)
    }

    fn let_go(&mut self, done: impl Fn(&Image) -> bool) -> Vec<ImageKey> {
        let here = self.images.iter_mut().filter(|image| image.features == Features::Here && done(image));
        here.map(|image| {
            image.features = Features::Absent;
            image.reference.key
        })
        .collect()
    }

    /// True when its time is over: a little before the deadline if there is something to tell, so that its listener hears
    /// of that in time. `step`: how long a step takes.
    pub(super) fn is_due(&self, step: Duration) -> bool {
        const TRANSFER: Duration = Duration::from_millis(20);
        let Some(left) = self.deadline.remaining() else { return false };
        let is_searching = self.beams.is_some() && self.is_branched;
        if !is_searching && !self.listener.has_heard() {
            return left.is_zero();
        }
        left <= (step + step / 2 + TRANSFER).min((self.listener.age() + left) / 4)
    }
}

impl Wishes {
    /// The search for the best continuations of a prompt.
    fn beams(&self, search: BeamSearch, prompt: &[u32]) -> Beams {
        let (sampling, end_token_ids) = (self.sampling.clone(), self.end_token_ids.clone());
        Beams::new(search, self.samples, sampling, end_token_ids, self.max_new_tokens, prompt)
    }

    /// The branches that there are at first: one that computes the prompt, or all the samples of which some are continued.
    fn branches(&self, prompt: Vec<u32>, begun: Vec<Begun>) -> Vec<Branch> {
        if begun.is_empty() {
            return vec![Branch::new(prompt, self.sampler(0))];
        }
        let mut begun = begun.into_iter().peekable();
        let branch = |sample| {
            let so_far = begun.next_if(|begun| begun.sample == sample);
            let (ended, answer) = (so_far.is_none(), so_far.map(|begun| begun.token_ids).unwrap_or_default());
            let mut branch = Branch::new([&prompt[..], &answer].concat(), self.sampler(sample));
            branch.ended = ended;
            branch
        };
        (0..self.samples).map(branch).collect()
    }

    /// Why an answer is over with its last token, if it is. `is_formed`: it has the form that was asked for.
    fn end(&self, answer: &[u32], is_formed: bool) -> Option<FinishReason> {
        let last = answer.last()?;
        if is_formed || self.end_token_ids.contains(last) {
            Some(FinishReason::Stop)
        } else {
            (answer.len() >= self.max_new_tokens).then_some(FinishReason::Length)
        }
    }

    /// What chooses the tokens of a sample.
    pub(super) fn sampler(&self, sample: usize) -> Sampler {
        Sampler::new(self.sampling.clone(), self.end_token_ids.clone(), sample)
    }
}
