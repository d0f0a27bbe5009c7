//! Tiles of waiting images, cut into forward passes: first come, first served, one image may span passes.

use std::collections::BTreeMap;
use std::time::Instant;

use tessera_anyres::Plan;
use tessera_api::{Error, ErrorKind, Result};
use tessera_tensor::{HostTensor, TensorError};

use super::{EncodeJob, Features};

/// Images that wait, or of which tiles are in a pass, and how far each of them is.
pub(super) struct Batcher {
    tiles_per_pass: usize,
    /// By order of arrival.
    images: BTreeMap<u64, Progress>,
    arrived: u64,
}

struct Progress {
    job: EncodeJob,
    tiles: usize,
    /// Tiles that are in a pass, or behind it.
    started: usize,
    began: Option<Instant>,
    done: usize,
    /// Rows of the tiles that are done, in order.
    rows: Vec<HostTensor>,
}

/// The tiles of a pass.
#[derive(Default)]
pub(super) struct Batch {
    /// `[tiles, 3, side, side]` of each image that is in it.
    pub(super) pixels: Vec<HostTensor>,
    /// Whose they are.
    pub(super) shares: Shares,
}

/// Whose the tiles of a pass are, in order: the image by its arrival, and how many.
#[derive(Debug, Default)]
pub(super) struct Shares(Vec<(u64, usize)>);

impl Batcher {
    pub(super) fn new(tiles_per_pass: usize) -> Self {
        Self { tiles_per_pass, images: BTreeMap::new(), arrived: 0 }
    }

    pub(super) fn push(&mut self, job: EncodeJob) {
        let tiles = job.pixels.shape().first().copied().unwrap_or(0);
        if tiles == 0 {
            let error = Error::new(ErrorKind::Internal, "BATCH_EMPTY", "an image without tiles");
            return answer(job, Err(error));
        }
        self.images.insert(self.arrived, Progress { job, tiles, started: 0, began: None, done: 0, rows: Vec::new() });
        self.arrived += 1;
    }

    /// The number of tiles that are in no pass yet.
    pub(super) fn waiting(&self) -> usize {
        self.images.values().map(|image| image.tiles - image.started).sum()
    }

    /// True when more images would not make the next pass larger.
    pub(super) fn is_full(&self) -> bool {
        self.waiting() >= self.tiles_per_pass
    }

    /// Takes the tiles of the next pass: all of an image's if they fit, else as many as fit. There are none if nobody
    /// waits for any image any more, for then no pass is worth it.
    pub(super) fn take(&mut self) -> Result<Batch> {
        self.images.retain(|_, image| !image.job.reply.is_closed());
        let (mut batch, mut left) = (Batch::default(), self.tiles_per_pass);
        for (&arrival, image) in &mut self.images {
            let tiles = left.min(image.tiles - image.started);
            if tiles > 0 {
                batch.pixels.push(image.job.pixels.narrow(image.started, tiles).map_err(|error| misshapen(&error))?);
                batch.shares.0.push((arrival, tiles));
                image.began.get_or_insert_with(Instant::now);
                image.started += tiles;
                left -= tiles;
            }
        }
        Ok(batch)
    }

    /// Takes what a pass gave, `[tiles * patches, channels]`, or why it failed, and answers the images that are complete
    /// with it or failed. `pack`: all rows of an image to its features.
    pub(super) fn finish(
        &mut self,
        shares: &Shares,
        rows: Result<HostTensor>,
        pack: impl Fn(&HostTensor, &Plan) -> Result<HostTensor>,
    ) {
        match rows.and_then(|rows| shares.split(&rows)) {
            Ok(parts) => {
                for (&(arrival, tiles), part) in shares.0.iter().zip(parts) {
                    self.give(arrival, tiles, part, &pack);
                }
            }
            Err(error) => {
                let failed = shares.0.iter().filter_map(|(arrival, _)| self.images.remove(arrival));
                failed.for_each(|image| answer(image.job, Err(error.clone())));
            }
        }
    }

    /// Tells everybody that there will be nothing.
    pub(super) fn fail(&mut self, error: &Error) {
        std::mem::take(&mut self.images).into_values().for_each(|image| answer(image.job, Err(error.clone())));
    }

    fn give(
        &mut self,
        arrival: u64,
        tiles: usize,
        part: HostTensor,
        pack: impl Fn(&HostTensor, &Plan) -> Result<HostTensor>,
    ) {
        // Its caller may have left, and another of its passes may have failed.
        let Some(image) = self.images.get_mut(&arrival) else { return };
        image.rows.push(part);
        image.done += tiles;
        if image.done == image.tiles
            && let Some(Progress { job, began, rows, .. }) = self.images.remove(&arrival)
        {
            let began = began.unwrap_or(job.sent);
            let features = concatenate(&rows).and_then(|rows| pack(&rows, &job.plan));
            let features = features.map(|rows| Features {
                rows,
                queue: began.saturating_duration_since(job.sent),
                forward: began.elapsed(),
            });
            answer(job, features);
        }
    }
}

impl Shares {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Cuts the rows of a pass into those of each share.
    fn split(&self, rows: &HostTensor) -> Result<Vec<HostTensor>> {
        let tiles: usize = self.0.iter().map(|(_, tiles)| tiles).sum();
        let patches = rows.shape().first().copied().unwrap_or(0) / tiles;
        let mut start = 0;
        let parts = self.0.iter().map(|(_, tiles)| {
            let part = rows.narrow(start, tiles * patches);
            start += tiles * patches;
            part.map_err(|error| misshapen(&error))
        });
        parts.collect()
    }
}

fn answer(job: EncodeJob, features: Result<Features>) {
    // The one who asked may have left.
    let _ = job.reply.send(features);
}

/// Rows below one another; no copy when there is one part.
fn concatenate(parts: &[HostTensor]) -> Result<HostTensor> {
    let [first, rest @ ..] = parts else {
        return Err(Error::new(ErrorKind::Internal, "BATCH_EMPTY", "an image without rows"));
    };
    if rest.is_empty() {
        return Ok(first.clone());
    }
    let mut shape = first.shape().to_vec();
    shape[0] = parts.iter().map(|part| part.shape()[0]).sum();
    let data = parts.iter().map(|part| &part.data()[..]).collect::<Vec<_>>().concat();
    HostTensor::new(first.dtype(), shape, data.into()).map_err(|error| misshapen(&error))
}

fn misshapen(error: &TensorError) -> Error {
    Error::new(ErrorKind::Internal, "BATCH_MISSHAPEN", error.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::tests::fake::{Reply, encode, job};
    use super::*;

    /// Runs a pass; returns its number of tiles.
    fn run(batcher: &mut Batcher) -> usize {
        let Batch { pixels, shares } = batcher.take().unwrap();
        batcher.finish(&shares, Ok(encode(&pixels)), |rows, _| Ok(rows.clone()));
        pixels.iter().map(|pixels| pixels.shape()[0]).sum()
    }

    fn rows(reply: &mut Reply) -> Vec<f32> {
        reply.try_recv().unwrap().unwrap().rows.to_f32()
    }

    #[test]
    fn images_share_passes_and_span_them_without_mixing() {
        let mut batcher = Batcher::new(4);
        let mut replies = Vec::new();
        for (image, tiles) in [(1.0, 3), (2.0, 5), (3.0, 1)] {
            let (job, reply) = job(image, tiles);
            batcher.push(job);
            replies.push((image, tiles, reply));
        }
        assert!(batcher.is_full());
        assert_eq!([run(&mut batcher), run(&mut batcher), run(&mut batcher)], [4, 4, 1]);
        assert_eq!(batcher.waiting(), 0);
        for (image, tiles, mut reply) in replies {
            let expected: Vec<f32> = (0..tiles).flat_map(|tile| [image * 100.0 + tile as f32; 2]).collect();
            assert_eq!(rows(&mut reply), expected);
        }
    }

    #[test]
    fn a_pass_may_be_taken_before_the_one_in_front_is_finished() {
        let mut batcher = Batcher::new(2);
        let (first, mut spanning) = job(1.0, 3);
        let (second, mut behind) = job(2.0, 1);
        batcher.push(first);
        batcher.push(second);
        let passes = [batcher.take().unwrap(), batcher.take().unwrap()];
        assert_eq!((passes.each_ref().map(|pass| pass.shares.0.len()), batcher.waiting()), ([1, 2], 0));
        assert!(batcher.take().unwrap().shares.is_empty());
        for Batch { pixels, shares } in passes {
            assert!(spanning.try_recv().is_err() && behind.try_recv().is_err());
            batcher.finish(&shares, Ok(encode(&pixels)), |rows, _| Ok(rows.clone()));
        }
        assert_eq!(rows(&mut spanning), [100.0, 100.0, 101.0, 101.0, 102.0, 102.0]);
        assert_eq!(rows(&mut behind), [200.0, 200.0]);
    }

    #[test]
    fn an_image_that_nobody_waits_for_costs_no_pass() {
        let mut batcher = Batcher::new(4);
        let (left, reply) = job(1.0, 3);
        drop(reply);
        let (kept, mut reply) = job(2.0, 2);
        batcher.push(left);
        batcher.push(kept);
        assert_eq!(run(&mut batcher), 2);
        assert_eq!(rows(&mut reply), [200.0, 200.0, 201.0, 201.0]);
    }

    #[test]
    fn who_leaves_while_a_pass_runs_changes_nothing_for_the_others() {
        let mut batcher = Batcher::new(2);
        let (first, left) = job(1.0, 3);
        let (second, mut kept) = job(2.0, 1);
        batcher.push(first);
        batcher.push(second);
        let Batch { pixels, shares } = batcher.take().unwrap();
        drop(left);
        assert_eq!(run(&mut batcher), 1, "the rest of the first is not worth a pass");
        batcher.finish(&shares, Ok(encode(&pixels)), |rows, _| Ok(rows.clone()));
        assert_eq!(rows(&mut kept), [200.0, 200.0]);
    }

    #[test]
    fn a_pass_that_fails_is_told_to_those_in_it_only() {
        let mut batcher = Batcher::new(2);
        let (first, mut lost) = job(1.0, 3);
        let (second, mut fine) = job(2.0, 2);
        batcher.push(first);
        batcher.push(second);
        let why = Error::new(ErrorKind::Internal, "MODEL_FAILED", "no");
        let [failing, next] = [batcher.take().unwrap(), batcher.take().unwrap()];
        batcher.finish(&failing.shares, Err(why.clone()), |rows, _| Ok(rows.clone()));
        assert_eq!(lost.try_recv().unwrap().unwrap_err(), why);
        batcher.finish(&next.shares, Ok(encode(&next.pixels)), |rows, _| Ok(rows.clone()));
        run(&mut batcher);
        assert_eq!(rows(&mut fine), [200.0, 200.0, 201.0, 201.0]);
    }
}
