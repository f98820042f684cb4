//! What `respond` takes.

use std::sync::{Arc, Mutex};

use super::Response;
use crate::Capture;

pub(crate) type Decide = dyn FnMut(&Capture) -> Response + Send;

/// One step of a script.
#[derive(Clone)]
pub(crate) enum Step {
    Fixed(Response),
    Closure(Arc<Mutex<Box<Decide>>>),
}

/// What can be given as the answer of a bin: a status (`503`), a [`Response`], a sequence of
/// either (`[500, 200]`: one per request, the last repeats), or a closure
/// `FnMut(&Capture) -> Response` that decides.
///
/// The closure is called once per request, one request at a time; it should not block for long,
/// and a panic in it is answered with 500 and the message.
pub trait Answers: private::Sealed {
    #[doc(hidden)]
    fn into_steps(self) -> private::Steps;
}

mod private {
    /// Steps of a script, not to be seen.
    pub struct Steps(pub(in crate::script) Vec<super::Step>);
    pub trait Sealed {}
}

pub(crate) fn steps(answers: impl Answers) -> Vec<Step> {
    answers.into_steps().0
}

fn fixed<T: Into<Response>>(answers: impl IntoIterator<Item = T>) -> private::Steps {
    private::Steps(answers.into_iter().map(|answer| Step::Fixed(answer.into())).collect())
}

impl private::Sealed for u16 {}
impl Answers for u16 {
    fn into_steps(self) -> private::Steps {
        fixed([self])
    }
}

impl private::Sealed for i32 {}
impl Answers for i32 {
    fn into_steps(self) -> private::Steps {
        fixed([self])
    }
}

impl private::Sealed for Response {}
impl Answers for Response {
    fn into_steps(self) -> private::Steps {
        fixed([self])
    }
}

impl<T: Into<Response>, const N: usize> private::Sealed for [T; N] {}
impl<T: Into<Response>, const N: usize> Answers for [T; N] {
    fn into_steps(self) -> private::Steps {
        fixed(self)
    }
}

impl<T: Into<Response>> private::Sealed for Vec<T> {}
impl<T: Into<Response>> Answers for Vec<T> {
    fn into_steps(self) -> private::Steps {
        fixed(self)
    }
}

impl<F: FnMut(&Capture) -> Response + Send + 'static> private::Sealed for F {}
impl<F: FnMut(&Capture) -> Response + Send + 'static> Answers for F {
    fn into_steps(self) -> private::Steps {
        private::Steps(vec![Step::Closure(Arc::new(Mutex::new(Box::new(self))))])
    }
}
