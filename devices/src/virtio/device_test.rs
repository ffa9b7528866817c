use super::*;

/// A device with only the required methods.
struct Least;

impl VirtioDevice for Least {
    fn id(&self) -> DeviceId {
        DeviceId::Entropy
    }

    fn queues(&self) -> &[u16] {
        &[]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(vec![1, 2, 3])
    }

    fn process_queue(&mut self, _: usize, _: &mut Queues) -> Result<(), QueueError> {
        Ok(())
    }
}

#[test]
fn a_device_with_only_the_required_methods_waits_for_nothing() {
    let mut device = Least;
    let mut queues = Queues::new(vec![None]);
    assert!(device.files().is_empty());
    device.activate(u64::MAX, &crate::rig::Rig::new(2).memory);
    assert!(device.handle_event(0, &mut queues).is_ok());
    device.queue_reset(0);
    device.reset();
    assert_eq!(device.features(), 0);
}

#[test]
fn a_constant_configuration_is_read_only_and_reads_as_zero_past_its_end() {
    let config = Least.config();
    config.write(0, &[9; 3]);
    let mut data = [0xee; 4];
    config.read(1, &mut data);
    assert_eq!(data, [2, 3, 0, 0]);
    config.read(usize::MAX, &mut data);
    assert_eq!(data, [0; 4]);
}

#[test]
fn a_queue_that_is_absent_stays_so() {
    let mut queues = Queues::new(vec![None]);
    assert!(queues.get(0).is_none());
    queues.set(1, None);
    assert!(queues.get(1).is_none());
}
