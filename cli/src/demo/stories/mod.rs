//! The three stories. Each breaks something, watches what the product does about it, and says how long it took.

pub mod energy;
pub mod kernel;
pub mod site_loss;

use super::{
    messages::Text,
    result::StoryResult,
    stage::Stage,
    timeline::{Chapter, Mark},
};

/// Ends a story: how it went, when, and what clients saw meanwhile.
fn conclude(stage: &Stage, mut result: StoryResult, outcome: Result<(), Text>) -> StoryResult {
    if let Err(failure) = outcome {
        stage.timeline.say(result.chapter, Mark::Bad, failure.clone());
        result.failure = Some(failure);
    }
    result.ended = stage.timeline.elapsed();
    if result.chapter != Chapter::Energy {
        result.clients = stage.traffic.between(result.began, result.ended);
    }
    result
}
