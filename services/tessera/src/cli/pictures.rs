//! The images of a question, in the order in which the command line names them, whichever flag does.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, value_parser};
use tessera_api::gateway::{ImageUrl, ImageUrlError};
use tessera_embedding::ImageKey;

const IMAGE: &str = "image";
const EMBEDDING: &str = "embedding";

/// One image of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Picture {
    /// A file.
    File(PathBuf),
    /// A file that the gateway fetches.
    Url(ImageUrl),
    /// One that was encoded before.
    Stored(ImageKey),
}

/// The images of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pictures(pub(crate) Vec<Picture>);

impl Pictures {
    /// True when a handle stands for one of them.
    pub(crate) fn has_handles(&self) -> bool {
        self.0.iter().any(|picture| matches!(picture, Picture::Stored(_)))
    }

    /// Those that the gateway fetches.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &ImageUrl> {
        self.0.iter().filter_map(|picture| if let Picture::Url(url) = picture { Some(url) } else { None })
    }
}

// Derived flags lose their order among each other.
impl Args for Pictures {
    fn augment_args(command: Command) -> Command {
        let image = Arg::new(IMAGE)
            .long(IMAGE)
            .short('i')
            .value_name("PATH|URL")
            .value_parser(OsStringValueParser::new().try_map(file_or_url))
            .action(ArgAction::Append)
            .help("Image file, or https://… of one; may be repeated, in the order in which the question means them");
        let embedding = Arg::new(EMBEDDING)
            .long(EMBEDDING)
            .value_name("HANDLE")
            .value_parser(value_parser!(ImageKey))
            .action(ArgAction::Append)
            .help("Image that was encoded before, by its handle; may be repeated and mixed with --image");
        command.arg(image).arg(embedding)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Pictures {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut pictures = in_order(matches, IMAGE, Picture::clone);
        pictures.extend(in_order(matches, EMBEDDING, |key: &ImageKey| Picture::Stored(*key)));
        pictures.sort_by_key(|&(place, _)| place);
        Ok(Self(pictures.into_iter().map(|(_, picture)| picture).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A file, or what begins as a URL and must be one.
///
/// # Errors
/// When it is none.
pub(crate) fn file_or_url(given: OsString) -> Result<Picture, ImageUrlError> {
    let is_url = |text: &str| {
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        scheme.is_some_and(|scheme| scheme == "http" || scheme == "https")
    };
    match given.to_str().filter(|text| is_url(text)) {
        Some(text) => Ok(Picture::Url(text.parse()?)),
        None => Ok(Picture::File(given.into())),
    }
}

/// The values of a flag, each with its place on the command line.
fn in_order<T: Clone + Send + Sync + 'static>(
    matches: &ArgMatches,
    flag: &str,
    picture: impl Fn(&T) -> Picture,
) -> Vec<(usize, Picture)> {
    let places = matches.indices_of(flag).into_iter().flatten();
    let values = matches.get_many::<T>(flag).into_iter().flatten();
    places.zip(values.map(picture)).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        pictures: Pictures,
    }

    #[test]
    fn images_and_handles_keep_the_order_of_the_command_line() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
        let url = "https://d.test/e.png?f";
        let arguments =
            ["ask", "-i", "a", "--embedding", &one, "--image", url, "--image", "b", "--image=c", "--embedding", &two];
        let file = |path: &str| Picture::File(path.into());
        let stored = |handle: &str| Picture::Stored(handle.parse().unwrap());
        let fetched = Picture::Url(url.parse().unwrap());
        let expected = [file("a"), stored(&one), fetched, file("b"), file("c"), stored(&two)];
        let pictures = Flags::parse_from(arguments).pictures;
        assert!(pictures.has_handles());
        assert_eq!(pictures.0, expected);
        assert_eq!(Flags::parse_from(["ask"]).pictures, Pictures::default());
    }

    #[test]
    fn what_begins_as_a_url_must_be_one() {
        let read =
            |text: &str| Flags::try_parse_from(["ask", "--image", text]).map(|flags| flags.pictures.0[0].clone());
        for file in ["https", "c:\\a.png", "file:///a.png", "a/http:/b"] {
            assert_eq!(read(file).unwrap(), Picture::File(file.into()), "{file}");
        }
        assert!(matches!(read("HTTP://a.test/b").unwrap(), Picture::Url(_)));
        let error = read("https://user:secret@a.test/").unwrap_err().to_string();
        assert!(error.contains("--image") && error.contains("password of a user"), "{error}");
    }

    #[test]
    fn what_is_no_handle_is_said_to_be_none() {
        let error = Flags::try_parse_from(["ask", "--embedding", "abc"]).unwrap_err().to_string();
        assert!(error.contains("--embedding") && error.contains("64 hexadecimal digits"), "{error}");
    }
}
