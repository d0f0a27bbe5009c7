//! The three services in this process, asked over gRPC about pictures that they have not seen, and about them again.

use tessera_tensor::Compute;

use super::Task;
use super::first_token::first_token;
use super::pictures::jpeg;
use super::report::Report;
use super::running::Running;

/// The names under which the table looks for them.
pub(crate) const FIRST: &str = "first token of a question about a new picture";
pub(crate) const SECOND: &str = "first token of another question about it";

/// Pictures that do not count: the first ones pay for what is made once.
const WARM_UP: usize = 3;

pub(crate) fn run(task: &Task, report: &mut Report) -> Result<(), String> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(ask(task, report))
}

async fn ask(task: &Task, report: &mut Report) -> Result<(), String> {
    let (model, device, compute) = (task.model.clone(), task.device.clone(), Compute::In(task.compute));
    let settings =
        tessera_vision::Settings { model: model.clone(), device: device.clone(), compute, ..Default::default() };
    let vision = tessera_vision::build(settings, |_| {}).await.map_err(|error| error.to_string())?;
    let mut vision = Running::start(|listener, stop| vision.run(listener, stop)).await;
    let settings = tessera_language::Settings { model: model.clone(), device, compute, ..Default::default() };
    let language = tessera_language::build(settings, |_| {}).await.map_err(|error| error.to_string())?;
    let mut language = Running::start(|listener, stop| language.run(listener, stop)).await;
    let settings = tessera_gateway::Settings {
        model,
        vision: vec![vision.url()],
        language: vec![language.url()],
        ..Default::default()
    };
    let gateway = tessera_gateway::build(settings).await.map_err(|error| error.to_string())?;
    let mut gateway = Running::start(|listener, stop| gateway.run(listener, stop)).await;

    let (mut first, mut second) = (Vec::new(), Vec::new());
    for number in 0..WARM_UP + task.size.runs {
        let side = task.size.picture;
        let picture = jpeg(side, side, &format!("picture {number}")).map_err(|error| error.to_string())?;
        for (question, times) in
            [("What is shown in this image?", &mut first), ("Which colour is on the left side?", &mut second)]
        {
            let wait = first_token(gateway.channel(), &picture, question).await.map_err(|error| error.to_string())?;
            times.push(wait.as_secs_f64() * 1e3);
        }
    }
    report.figure(FIRST, "ms", first.split_off(WARM_UP));
    report.figure(SECOND, "ms", second.split_off(WARM_UP));
    for service in [&mut gateway, &mut language, &mut vision] {
        service.stop.cancel();
        service.ended().await;
    }
    Ok(())
}
