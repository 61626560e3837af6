//! All cores for one model.

use candle_core::utils::get_num_threads;
use rayon::ThreadPoolBuilder;

/// Makes the calling thread one of those that rayon works on, so that a matrix product that it begins is begun at once:
/// from any other thread each is handed over first, and the thread sleeps until it is done, which for small products
/// takes longer than they do. For the one thread that a model runs on, before it computes anything; nothing changes where
/// rayon was used before.
pub fn join() {
    // one more than this thread at least: what others ask for must be done while this one waits for work
    let threads = get_num_threads().max(2);
    if let Err(error) = ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global() {
        tracing::debug!(%error, "the model's thread is not one of rayon's");
    }
}
