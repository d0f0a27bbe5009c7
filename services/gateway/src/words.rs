//! What the fields of a request are called by whoever asked, where the gateway calls them otherwise.

use tessera_api::Error;

/// Paths of the gateway's own request, and what they are in the caller's.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words(Vec<(String, String)>);

impl Words {
    /// Says what a field, and everything in it, is to the caller.
    pub(crate) fn say(&mut self, ours: impl Into<String>, theirs: impl Into<String>) {
        self.0.push((ours.into(), theirs.into()));
    }

    /// An error that names fields as the caller knows them.
    pub(crate) fn of(&self, mut error: Error) -> Error {
        for violation in &mut error.fields {
            let Some(theirs) = self.path(&violation.field) else { continue };
            if let Some(rest) = error.message.strip_prefix(&violation.field) {
                error.message = format!("{theirs}{rest}");
            }
            violation.field = theirs;
        }
        for (_, value) in error.metadata.iter_mut().filter(|(name, _)| name == "field") {
            let Some(theirs) = self.path(value) else { continue };
            if let Some(rest) = error.message.strip_prefix(value.as_str()) {
                error.message = format!("{theirs}{rest}");
            }
            *value = theirs;
        }
        error
    }

    /// The caller's path of a field; what was said of a part of it goes before what was said of the whole.
    fn path(&self, field: &str) -> Option<String> {
        let known = self.0.iter().filter_map(|(ours, theirs)| {
            let rest = field.strip_prefix(ours.as_str())?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then_some((ours.len(), theirs, rest))
        });
        if let Some((_, theirs, rest)) = known.max_by_key(|(length, ..)| *length) {
            return Some(format!("{theirs}{rest}"));
        }
        // Settings have no field of their own, unless one was named.
        field.strip_prefix("settings.").map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use tessera_api::ErrorKind;

    use super::*;

    #[test]
    fn errors_name_fields_as_the_caller_does() {
        let mut words = Words::default();
        words.say("settings.samples", "n");
        words.say("messages[0].parts[1]", "messages[0].content[1]");
        words.say("messages[0].parts[1].image", "messages[0].content[1].image_url");
        for (ours, theirs) in [
            ("settings.top_p", "top_p"),
            ("settings.samples", "n"),
            ("settings.samples_of_soil", "samples_of_soil"),
            ("settings.bad_words[3]", "bad_words[3]"),
            ("messages[0].parts[1].image.url", "messages[0].content[1].image_url.url"),
            ("messages[0].parts[1]", "messages[0].content[1]"),
            ("messages[0].parts[10].image", "messages[0].parts[10].image"),
            ("messages", "messages"),
        ] {
            let error = words.of(Error::field("A_REASON", ours, "is wrong"));
            assert_eq!((error.fields[0].field.as_str(), error.message), (theirs, format!("{theirs}: is wrong")));
        }
        let ours = "messages[0].parts[1].image.url";
        let error = Error::new(ErrorKind::Unavailable, "A_REASON", format!("{ours}: is away")).with("field", ours);
        let error = words.of(error);
        assert_eq!(error.message, "messages[0].content[1].image_url.url: is away");
        assert_eq!(error.metadata[0].1, "messages[0].content[1].image_url.url");
    }
}
