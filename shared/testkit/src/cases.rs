//! The cases: what is asked, about which images. They mirror `CASES` of `tests/fixtures/make_tiny.py`.

use crate::{fixtures_dir, read};

/// The names of the cases.
pub const CASES: [&str; 6] = ["one_image", "portrait", "two_images", "two_turns", "text_only", "batch"];

/// One message of a conversation: its images come first, then its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// `user` or `assistant`.
    pub role: &'static str,
    /// How many images it shows.
    pub images: usize,
    /// What it says.
    pub text: &'static str,
}

const fn user(images: usize, text: &'static str) -> Turn {
    Turn { role: "user", images, text }
}

/// The conversations of a case: two for `batch`, one for the others.
///
/// # Panics
/// If there is no such case.
pub fn conversations(case: &str) -> Vec<Vec<Turn>> {
    match case {
        "one_image" => vec![vec![user(1, "What is shown in this image?")]],
        "portrait" => vec![vec![user(1, "Describe the image.")]],
        "two_images" => vec![vec![user(2, "Compare these two images and describe the differences.")]],
        "two_turns" => vec![vec![
            user(1, "What is shown in this image?"),
            Turn { role: "assistant", images: 0, text: "a cat" },
            user(0, "What color?"),
        ]],
        "text_only" => vec![vec![user(0, "What is shown?")]],
        "batch" => {
            vec![vec![user(1, "Describe the image.")], vec![user(1, "What is shown in this image? 你好")]]
        }
        other => panic!("{other} is not one of {CASES:?}"),
    }
}

/// How many images a case shows, in all its conversations.
pub fn picture_count(case: &str) -> usize {
    conversations(case).iter().flatten().map(|turn| turn.images).sum()
}

/// Image `index` of a case as a PNG file, counted through all its conversations.
///
/// # Panics
/// If there is no such image.
pub fn picture(case: &str, index: usize) -> Vec<u8> {
    read(&fixtures_dir().join("tiny/pictures").join(format!("{case}_{index}.png")))
}
