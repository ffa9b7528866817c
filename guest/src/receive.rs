//! A queue of buffers that the device fills: the receiveq of the console, of the network device and
//! of the socket device.

use crate::{Dma, Error, Head, Queue, Region, Registers, Segment, Transport};

/// A queue of up to `COUNT` entries, each with a buffer of `SIZE` bytes.
#[derive(Debug)]
pub(crate) struct Receive<const COUNT: usize, const SIZE: usize> {
    queue: Queue,
    index: u16,
    memory: Region,
    /// The chain of each buffer, while the device has it.
    posted: [Option<Head>; COUNT],
}

impl<const COUNT: usize, const SIZE: usize> Receive<COUNT, SIZE> {
    /// Sets up queue `index`, before [`Transport::start`].
    ///
    /// # Errors
    ///
    /// As [`Transport::queue`]; [`Error::OutOfDma`].
    pub(crate) fn new<R: Registers>(
        transport: &mut Transport<R>,
        dma: &mut Dma,
        index: u16,
    ) -> Result<Self, Error> {
        let entries = u16::try_from(COUNT).unwrap_or(u16::MAX);
        let queue = transport.queue(index, entries, dma)?;
        let memory = dma.alloc(COUNT * SIZE)?;
        Ok(Self { queue, index, memory, posted: [None; COUNT] })
    }

    /// Makes all buffers available to the device.
    ///
    /// # Errors
    ///
    /// The error that broke the queue.
    pub(crate) fn post_all<R: Registers>(&mut self, transport: &Transport<R>) -> Result<(), Error> {
        for buffer in 0..usize::from(self.queue.size()) {
            self.post(buffer)?;
        }
        self.kick(transport);
        Ok(())
    }

    /// Takes the next buffer that the device has used. Returns it and the number of bytes that the
    /// device wrote.
    ///
    /// # Errors
    ///
    /// The error that broke the queue.
    pub(crate) fn take(&mut self) -> Result<Option<(usize, usize)>, Error> {
        while let Some(used) = self.queue.pop()? {
            let mut posted = self.posted.iter_mut().enumerate();
            if let Some((buffer, head)) = posted.find(|(_, head)| **head == Some(used.head)) {
                *head = None;
                // `pop` has checked that this is at most the buffer's length.
                let written = usize::try_from(used.written).unwrap_or(SIZE).min(SIZE);
                return Ok(Some((buffer, written)));
            }
        }
        Ok(None)
    }

    /// As [`take`](Self::take), for a buffer that is not empty. Empty ones go back to the device.
    ///
    /// # Errors
    ///
    /// The error that broke the queue.
    pub(crate) fn take_filled<R: Registers>(
        &mut self,
        transport: &Transport<R>,
    ) -> Result<Option<(usize, usize)>, Error> {
        while let Some((buffer, written)) = self.take()? {
            if written > 0 {
                return Ok(Some((buffer, written)));
            }
            self.repost(buffer, transport)?;
        }
        Ok(None)
    }

    /// Copies the bytes of a buffer from `start` on.
    pub(crate) fn read(&self, buffer: usize, start: usize, into: &mut [u8]) {
        self.memory.read(buffer * SIZE + start, into);
    }

    /// Makes a buffer available to the device again.
    ///
    /// # Errors
    ///
    /// The error that broke the queue.
    pub(crate) fn repost<R: Registers>(
        &mut self,
        buffer: usize,
        transport: &Transport<R>,
    ) -> Result<(), Error> {
        self.post(buffer)?;
        self.kick(transport);
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u16 {
        self.queue.in_flight()
    }

    fn post(&mut self, buffer: usize) -> Result<(), Error> {
        let start = buffer * SIZE;
        let memory = self.memory.slice(start..start + SIZE);
        let head = self.queue.add(&[Segment::writable(&memory)])?;
        if let Some(posted) = self.posted.get_mut(buffer) {
            *posted = Some(head);
        }
        Ok(())
    }

    fn kick<R: Registers>(&mut self, transport: &Transport<R>) {
        if self.queue.publish() {
            transport.notify(self.index);
        }
    }
}
