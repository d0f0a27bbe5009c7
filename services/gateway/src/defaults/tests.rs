//! Defaults and conflicts.

use tessera_api::gateway::BeamSettings;
use tessera_api::language::Constraint;

use super::*;

fn of(settings: &Settings) -> Generation {
    generation(settings, &GenerationDefaults::default()).unwrap()
}

fn draw(settings: &Settings, checkpoint: &GenerationDefaults) -> Option<Draw> {
    match generation(settings, checkpoint).unwrap().sampling.choice {
        Choice::Greedy => None,
        Choice::Draw(draw) => Some(draw),
    }
}

fn beams(beams: usize) -> Option<BeamSettings> {
    let beams = NonZeroUsize::new(beams).unwrap();
    Some(BeamSettings { beams, length_penalty: None, early_stopping: None })
}

#[test]
fn greedy_unless_somebody_says_otherwise() {
    let silent = GenerationDefaults::default();
    let samples = GenerationDefaults { do_sample: Some(true), temperature: Some(0.2), ..silent.clone() };
    let zero = Settings { temperature: Some(0.0), ..Settings::default() };
    let nucleus = Settings { top_p: Some(0.9), ..Settings::default() };
    let typical = Settings { typical_p: Some(0.5), ..Settings::default() };
    assert_eq!(draw(&Settings::default(), &silent), None);
    assert_eq!(draw(&zero, &samples), None);
    assert_eq!(draw(&Settings::default(), &samples).unwrap().temperature, 0.2);
    let drawn = draw(&nucleus, &silent).unwrap();
    assert_eq!((drawn.temperature, drawn.top_p, drawn.top_k), (1.0, 0.9, NonZeroUsize::new(50)));
    assert_eq!((drawn.min_p, drawn.typical_p, drawn.generator), (0.0, 1.0, Generator::Counter));
    assert_eq!(draw(&typical, &silent).unwrap().typical_p, 0.5);
}

#[test]
fn what_is_out_of_range_is_named() {
    let wrong = Settings { temperature: Some(1.0), top_p: Some(1.5), ..Settings::default() };
    let error = generation(&wrong, &GenerationDefaults::default()).unwrap_err();
    assert_eq!(error.fields[0].field, "settings.top_p");
}

#[test]
fn a_setting_left_out_is_the_checkpoints_and_then_neutral() {
    let silent = of(&Settings::default());
    assert_eq!(silent.sampling, Sampling::GREEDY);
    assert_eq!((silent.samples.get(), silent.beam_search, silent.end_token_ids), (1, None, vec![]));

    let checkpoint = GenerationDefaults {
        eos_ids: vec![2, 3],
        no_repeat_ngram: Some(4),
        repetition_penalty: Some(1.5),
        typical_p: Some(0.7),
        do_sample: Some(true),
        bad_words: Some(vec![vec![2], vec![2, 3], vec![9]]),
        suppress_tokens: Some(vec![8, 5, 8]),
        num_return_sequences: Some(2),
        ..GenerationDefaults::default()
    };
    let from_file = generation(&Settings::default(), &checkpoint).unwrap();
    assert_eq!(from_file.samples.get(), 2);
    assert_eq!(from_file.end_token_ids, [2, 3]);
    let sampling = &from_file.sampling;
    assert_eq!((sampling.no_repeat_ngram, sampling.repetition_penalty), (NonZeroUsize::new(4), 1.5));
    // An end token alone is no bad word, as the reference has it.
    assert_eq!(sampling.bad_words, [vec![2, 3], vec![9]]);
    assert_eq!(sampling.logit_bias, [(5, f32::NEG_INFINITY), (8, f32::NEG_INFINITY)]);
    assert!(matches!(sampling.choice, Choice::Draw(Draw { typical_p: 0.7, .. })));

    let settings = Settings {
        no_repeat_ngram: Some(0),
        repetition_penalty: Some(1.0),
        typical_p: Some(1.0),
        bad_words: vec![vec![7]],
        logit_bias: vec![(4, 1.0), (5, 1.0)],
        samples: NonZeroUsize::new(1),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(-0.5),
        ..Settings::default()
    };
    let asked = generation(&settings, &checkpoint).unwrap();
    let sampling = &asked.sampling;
    assert_eq!((asked.samples.get(), sampling.no_repeat_ngram, sampling.repetition_penalty), (1, None, 1.0));
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (0.5, -0.5));
    assert_eq!(sampling.bad_words, [vec![7]]);
    assert_eq!(sampling.logit_bias, [(4, 1.0), (5, f32::NEG_INFINITY), (8, f32::NEG_INFINITY)]);
    assert!(matches!(sampling.choice, Choice::Draw(Draw { typical_p: 1.0, .. })));
}

#[test]
fn a_search_is_the_requests_then_the_checkpoints() {
    let checkpoint = GenerationDefaults {
        num_beams: Some(4),
        length_penalty: Some(2.0),
        early_stopping: Some(CheckpointEarlyStopping::Always),
        ..GenerationDefaults::default()
    };
    let search = |settings: &Settings, checkpoint: &_| generation(settings, checkpoint).unwrap().beam_search;
    let from_file = BeamSearch { beams: 4, length_penalty: 2.0, early_stopping: EarlyStopping::Always };
    assert_eq!(search(&Settings::default(), &checkpoint), Some(from_file));
    assert_eq!(search(&Settings { beam_search: beams(1), ..Settings::default() }, &checkpoint), None);
    let asked = BeamSettings {
        beams: NonZeroUsize::new(3).unwrap(),
        length_penalty: Some(0.0),
        early_stopping: Some(EarlyStopping::Never),
    };
    let asked = Settings { beam_search: Some(asked), ..Settings::default() };
    let expected = BeamSearch { beams: 3, length_penalty: 0.0, early_stopping: EarlyStopping::Never };
    assert_eq!(search(&asked, &checkpoint), Some(expected));
    let plain = BeamSearch { beams: 3, length_penalty: 1.0, early_stopping: EarlyStopping::Heuristic };
    let asked = Settings { beam_search: beams(3), ..Settings::default() };
    assert_eq!(search(&asked, &GenerationDefaults::default()), Some(plain));
}

#[test]
fn end_tokens_are_the_checkpoints_and_the_requests() {
    let checkpoint = GenerationDefaults { eos_ids: vec![2], ..GenerationDefaults::default() };
    let ends = |ignore_end, stop_token_ids: &[u32]| {
        let settings = Settings { ignore_end, stop_token_ids: stop_token_ids.to_vec(), ..Settings::default() };
        generation(&settings, &checkpoint).unwrap().end_token_ids
    };
    assert_eq!(ends(false, &[7, 2, 7]), [2, 7]);
    assert_eq!(ends(true, &[7]), [7]);
    assert_eq!(ends(true, &[]), [0; 0]);
}

#[test]
fn a_seed_for_torch_is_one_that_torch_takes() {
    for _ in 0..20 {
        let settings = Settings { temperature: Some(1.0), generator: Generator::Torch, ..Settings::default() };
        assert!(u32::try_from(of(&settings).seed).is_ok());
    }
    let long = Settings { seed: Some(1 << 32), temperature: Some(1.0), ..Settings::default() };
    assert_eq!(of(&long).seed, 1 << 32);
    let error = generation(&Settings { generator: Generator::Torch, ..long }, &GenerationDefaults::default());
    assert_eq!(error.unwrap_err().fields[0].field, "settings.seed");
}

#[test]
fn what_excludes_another_setting_is_refused() {
    let silent = GenerationDefaults { eos_ids: vec![2], ..GenerationDefaults::default() };
    let searches = GenerationDefaults { num_beams: Some(4), ..silent.clone() };
    let samples = GenerationDefaults { do_sample: Some(true), ..silent.clone() };
    let many = GenerationDefaults { num_return_sequences: Some(65), ..samples.clone() };
    let settings = Settings::default;
    let regex = || Some(Constraint::Regex("a".into()));
    let three = NonZeroUsize::new(3);
    let warm = Some(0.7);
    for (settings, checkpoint, field) in [
        (Settings { beam_search: beams(4), temperature: warm, ..settings() }, &silent, "beam_search"),
        (Settings { beam_search: beams(4), top_k: Some(5), ..settings() }, &silent, "beam_search"),
        (Settings { temperature: warm, ..settings() }, &searches, "beam_search"),
        (Settings { beam_search: beams(4), ..settings() }, &samples, "beam_search"),
        (Settings { beam_search: beams(4), stop: vec!["a".into()], ..settings() }, &silent, "stop"),
        (Settings { stop: vec!["a".into()], ..settings() }, &searches, "stop"),
        (Settings { beam_search: beams(4), constraint: regex(), ..settings() }, &silent, "constraint"),
        (Settings { beam_search: beams(2), samples: three, ..settings() }, &silent, "beam_search.beams"),
        (Settings { samples: three, ..settings() }, &silent, "samples"),
        (Settings { samples: three, temperature: Some(0.0), ..settings() }, &samples, "samples"),
        (settings(), &many, "samples"),
        (Settings { ignore_end: true, constraint: regex(), ..settings() }, &silent, "ignore_end"),
        (Settings { bad_words: vec![vec![5], vec![2]], ..settings() }, &silent, "bad_words[1]"),
    ] {
        let error = generation(&settings, checkpoint).expect_err(field);
        assert_eq!(
            (error.reason.as_ref(), &error.fields[0].field),
            ("SETTINGS_CONFLICT", &format!("settings.{field}"))
        );
        assert!(error.message.len() > 20, "{error}");
    }
    for (settings, checkpoint) in [
        (Settings { beam_search: beams(3), samples: three, ..settings() }, &silent),
        (Settings { beam_search: beams(1), temperature: warm, ..settings() }, &searches),
        (Settings { beam_search: beams(4), temperature: Some(0.0), ..settings() }, &samples),
        (Settings { samples: three, ..settings() }, &samples),
        (Settings { bad_words: vec![vec![2]], ignore_end: true, ..settings() }, &silent),
    ] {
        assert!(generation(&settings, checkpoint).is_ok(), "{settings:?}");
    }
    let lengthless = BeamSettings { length_penalty: Some(f32::NAN), ..beams(2).unwrap() };
    let error = generation(&Settings { beam_search: Some(lengthless), ..settings() }, &silent).unwrap_err();
    assert_eq!(error.fields[0].field, "settings.beam_search.length_penalty");
}

#[test]
fn new_tokens_end_with_the_context() {
    let (none, file) = (GenerationDefaults::default(), |max_length| GenerationDefaults {
        max_length: Some(max_length),
        ..GenerationDefaults::default()
    });
    let (asked, silent) = (Settings { max_tokens: Some(50), ..Settings::default() }, Settings::default());
    let most = |settings, file: &_, prompt| {
        lengths(settings, file, Room { field: "messages", default: 20, prompt, context: 100 })
            .map(|lengths| lengths.max.get())
    };
    assert_eq!(most(&asked, &none, 10), Ok(50));
    assert_eq!(most(&asked, &none, 70), Ok(30));
    assert_eq!(most(&silent, &none, 10), Ok(20));
    assert_eq!(most(&silent, &file(40), 10), Ok(30));
    assert_eq!(most(&asked, &none, 100).unwrap_err().reason, "PROMPT_TOO_LONG");
}

#[test]
fn a_least_length_is_the_requests_then_the_checkpoints() {
    let least = |min_tokens, min_new_tokens, min_length| {
        let settings = Settings { min_tokens, ..Settings::default() };
        let checkpoint = GenerationDefaults { min_new_tokens, min_length, ..GenerationDefaults::default() };
        lengths(&settings, &checkpoint, Room { field: "messages", default: 20, prompt: 10, context: 100 })
            .map(|lengths| lengths.min)
    };
    assert_eq!(least(None, None, None), Ok(0));
    assert_eq!(least(Some(5), Some(7), Some(30)), Ok(5));
    assert_eq!(least(None, Some(7), Some(30)), Ok(7));
    assert_eq!(least(None, None, Some(13)), Ok(3));
    assert_eq!(least(None, None, Some(4)), Ok(0));
    // A file's minimum above the maximum is cut, a request's is refused.
    assert_eq!(least(None, Some(90), None), Ok(20));
    assert_eq!(least(Some(21), None, None).unwrap_err().fields[0].field, "settings.min_tokens");
}
