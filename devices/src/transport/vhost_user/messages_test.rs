//! Messages that the library passes on only if their feature was accepted.

use std::os::unix::net::UnixStream;

use super::*;
use crate::rng::Rng;

fn backend() -> Backend {
    Backend::new(Box::new(Rng::default())).unwrap()
}

#[test]
fn messages_of_features_that_were_not_offered_are_refused() {
    let file = || tempfile::tempfile().unwrap();
    let mut backend = backend();
    let gpu = GpuBackend::from_stream(UnixStream::pair().unwrap().0);
    let inflight = VhostUserInflight::default();
    let direction = VhostTransferStateDirection::SAVE;
    let phase = VhostTransferStatePhase::STOPPED;
    let state = backend.set_device_state_fd(direction, phase, file());
    let refusals = [
        backend.set_gpu_socket(gpu).err(),
        backend
            .get_shared_object(VhostUserSharedMsg::default())
            .err(),
        backend.get_inflight_fd(&inflight).err(),
        backend.set_inflight_fd(&inflight, file()).err(),
        state.err(),
        backend.check_device_state().err(),
        backend.get_shmem_config().err(),
        backend.set_log_base(&VhostUserLog::default(), file()).err(),
    ];
    for (index, refusal) in refusals.iter().enumerate() {
        let expected = matches!(refusal, Some(Error::InvalidOperation(_)));
        assert!(expected, "{index}: {refusal:?}");
    }
}

#[test]
fn a_device_without_configuration_space_does_not_offer_config() {
    let offered = backend().get_protocol_features().unwrap();
    assert!(!offered.contains(VhostUserProtocolFeatures::CONFIG));
    assert!(offered.contains(PROTOCOL));
}

#[test]
fn reset_owner_resets_the_device() {
    let mut backend = backend();
    backend.set_owner().unwrap();
    backend.set_vring_enable(0, true).unwrap();
    backend.reset_owner().unwrap();
    assert!(!backend.ring(0).unwrap().enabled);
}
