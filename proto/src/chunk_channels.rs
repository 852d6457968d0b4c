//! Channels to datanodes: made lazily, shared, bounded.

use crate::framed::{ChunkFramedClient, receive_buffers};
use crate::grpc::ChunkGrpcClient;
use crate::socket::{LocalSockets, Peer};
use crate::transport::Transport;
use dfs_common::FsResult;
use dfs_common::buffer::Buffers;
use dfs_common::limits::CHUNK_CHANNELS_MAX;
use dfs_common::service::{ChunkConnector, ChunkService};
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

/// A [`ChunkConnector`] over the transport of one's choice. A channel whose connection failed makes a new one at its next call by itself.
///
/// At most [`CHUNK_CHANNELS_MAX`] channels are kept; the one that was not asked for the longest closes when its running calls end.
pub struct ChunkChannels {
    channels: Mutex<LruCache<String, Arc<dyn ChunkService>>>,
    /// What all of them receive into.
    buffers: Buffers,
    transport: Transport,
    deadline: Duration,
    local_sockets: LocalSockets,
}

impl ChunkChannels {
    /// A connector whose stubs have the deadlines of [`ChunkFramedClient::connect_lazy`] or [`ChunkGrpcClient::connect_lazy`].
    pub fn new(transport: Transport, deadline: Duration, local_sockets: LocalSockets) -> Self {
        let limit = const { NonZeroUsize::new(CHUNK_CHANNELS_MAX).expect("the limit is above 0") };
        ChunkChannels {
            channels: Mutex::new(LruCache::new(limit)),
            buffers: receive_buffers(),
            transport,
            deadline,
            local_sockets,
        }
    }

    /// Forgets the channel to `address`, for a datanode that was removed. Its running calls go on.
    pub fn forget(&self, address: &str) {
        self.channels.lock().pop(address);
    }

    /// Channels that are kept.
    pub fn channels(&self) -> usize {
        self.channels.lock().len()
    }
}

impl ChunkConnector for ChunkChannels {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        let mut channels = self.channels.lock();
        if let Some(client) = channels.get(address) {
            return Ok(client.clone());
        }
        let peer = Peer::new(address, self.local_sockets);
        let client: Arc<dyn ChunkService> = match self.transport {
            Transport::Framed => {
                let buffers = self.buffers.clone();
                Arc::new(ChunkFramedClient::with_buffers(peer, self.deadline, buffers)?)
            }
            Transport::Grpc => Arc::new(ChunkGrpcClient::connect_lazy(peer, self.deadline)?),
        };
        channels.put(address.to_string(), client.clone());
        Ok(client)
    }
}
