//! What an operator asks of the trash.

use curvine_proto::{ChangeTrashReply, ChangeTrashRequest, ListTrashReply, ListTrashRequest, Method};
use curvine_types::Result;

use crate::FileSystem;

impl FileSystem {
    /// What was removed through mounts from a path, or from below it, and is still in their stores: entries after number `after`, in
    /// the order of removal. There may be more even if there are none here; `ListTrashReply::end` says whether.
    pub async fn trash(&self, path: &[u8], after: u64, limit: u32) -> Result<ListTrashReply> {
        let path = bytes::Bytes::copy_from_slice(path);
        let request = |session| ListTrashRequest { session, path: path.clone(), after, limit };
        let (reply, _) = self.core.ask(Method::ListTrash, request, self.core.deadline()).await?;
        Ok(reply)
    }

    /// Gives entries of the trash their names back; at most 256 at once. What failed is named in the answer.
    pub async fn restore_trash(&self, ids: &[u64]) -> Result<ChangeTrashReply> {
        self.change_trash(Method::RestoreTrash, ids).await
    }

    /// Has the stores delete entries of the trash now; at most 256 at once. What failed is named in the answer.
    pub async fn empty_trash(&self, ids: &[u64]) -> Result<ChangeTrashReply> {
        self.change_trash(Method::EmptyTrash, ids).await
    }

    async fn change_trash(&self, method: Method, ids: &[u64]) -> Result<ChangeTrashReply> {
        let request = |session| ChangeTrashRequest { session, ids: ids.to_vec(), caller: self.core.caller() };
        let (reply, _) = self.core.ask(method, request, self.core.data_deadline()).await?;
        Ok(reply)
    }
}
