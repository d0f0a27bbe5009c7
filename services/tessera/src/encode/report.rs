//! What is told of the images: a line for each, the manifest, the bar, and the end.

use std::time::Instant;

use serde::Serialize;
use tessera_api::gateway::Encoded;
use tessera_embedding::EncoderFingerprint;

use super::line::{Done, Failure, ImageFile};
use super::manifest::Manifest;
use super::tally::Tally;
use crate::output::{self, Progress};

/// Tells what becomes of the images.
#[derive(Debug)]
pub(super) struct Report {
    manifest: Option<Manifest>,
    json: bool,
    tally: Tally,
    bar: Progress,
    since: Instant,
    /// Images that were found.
    found: u64,
    all_found: bool,
}

impl Report {
    /// Begins; the clock runs from now on.
    pub(super) fn new(manifest: Option<Manifest>, json: bool) -> Self {
        Self {
            manifest,
            json,
            tally: Tally::default(),
            bar: Progress::of_images(),
            since: Instant::now(),
            found: 0,
            all_found: false,
        }
    }

    /// True when the manifest says that the file is done.
    pub(super) fn is_done(&self, file: &ImageFile) -> bool {
        self.manifest.as_ref().is_some_and(|manifest| manifest.has(file))
    }

    /// True when it matters what encodes the images.
    pub(super) fn wants_encoder(&self) -> bool {
        self.manifest.is_some()
    }

    /// Takes note of what encodes the images.
    ///
    /// # Errors
    /// When the manifest is of something else.
    pub(super) fn encoded_by(&mut self, encoder: EncoderFingerprint) -> anyhow::Result<()> {
        self.manifest.as_mut().map_or(Ok(()), |manifest| manifest.encoded_by(encoder))
    }

    /// One more was found.
    pub(super) fn found(&mut self) {
        self.found += 1;
        self.show();
    }

    /// There are no more to be found.
    pub(super) fn all_found(&mut self) {
        self.all_found = true;
        self.show();
    }

    /// An image is left out, because it is done.
    pub(super) fn skipped(&mut self) {
        self.tally.skipped += 1;
        self.show();
    }

    /// An image is stored.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn encoded(&mut self, file: &ImageFile, encoded: &Encoded) -> anyhow::Result<()> {
        self.tally.encoded += 1;
        self.tally.stored_before += u64::from(encoded.stored_before);
        self.tally.fleeting += u64::from(!encoded.durable);
        let line = Done::new(file, encoded);
        self.record(&line)?;
        if !self.json {
            let line = format!("{}\t{}\n", encoded.image.key, file.path);
            self.bar.beside(|| output::text(&line))?;
        }
        self.show();
        Ok(())
    }

    /// An image is not stored.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn failed(&mut self, failure: Failure) -> anyhow::Result<()> {
        self.record(&failure)?;
        self.bar.beside(|| output::complaint(&format!("{}: {}", failure.path, failure.error)));
        self.tally.fail(failure);
        self.show();
        Ok(())
    }

    /// A remark between the lines.
    pub(super) fn note(&self, text: &str) {
        self.bar.beside(|| output::note(text));
    }

    /// Ends: failures again, and the last line. Tells what happened.
    pub(super) fn end(self) -> Tally {
        let Self { manifest, tally, bar, since, .. } = self;
        drop(bar);
        if tally.fleeting > 0 {
            let count = tally.fleeting;
            output::note(&format!(
                "{count} of them are on no disk: unless a store is shared, they end with the gateway"
            ));
        }
        for line in tally.failures(manifest.is_some()) {
            output::plain(&format!("failed: {line}"));
        }
        output::plain(&tally.summary(since.elapsed()));
        tally
    }

    fn record(&mut self, line: &impl Serialize) -> anyhow::Result<()> {
        if let Some(manifest) = &mut self.manifest {
            manifest.add(line)?;
        }
        if self.json {
            let text = serde_json::to_string(line)? + "\n";
            self.bar.beside(|| output::text(&text))?;
        }
        Ok(())
    }

    fn show(&self) {
        self.bar.set(self.tally.done(), self.found);
        self.bar.say(|| self.tally.progress(self.found, self.all_found, self.since.elapsed()));
    }
}
