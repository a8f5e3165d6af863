use std::time::{Duration, Instant};

use super::*;

#[derive(Debug)]
struct Fixed(Option<u32>);

#[async_trait]
impl CredentialProvider for Fixed {
    type Credential = u32;

    async fn get_credential(&self) -> object_store::Result<Arc<u32>> {
        self.0.map(Arc::new).ok_or(object_store::Error::NotImplemented {
            operation: "token".to_owned(),
            implementer: "test".to_owned(),
        })
    }
}

/// The content of the file: a number, "none" for a file that has none, "token" for one that gives no token, or nonsense.
fn renewing(file: &std::path::Path) -> Arc<Renewing<u32>> {
    let file = file.to_owned();
    Renewing::new(move || {
        let mut watch = Watch::default();
        watch.add(&file);
        let text = std::fs::read_to_string(&file).map_err(|error| crate::Error::io("open", &file, error))?;
        let number = match text.trim() {
            "none" | "token" => None,
            text => Some(text.parse().map_err(|_| crate::Error::config("nonsense", ""))?),
        };
        Ok(Made {
            provider: Arc::new(Fixed(number)),
            watch,
            origin: "the file".to_owned(),
            in_file: text.trim() != "none",
        })
    })
    .expect("made")
}

#[tokio::test]
async fn what_was_read_last_serves_until_something_better_can_be_read() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "1").expect("written");
    let renewing = renewing(file.path());
    assert_eq!(renewing.current().await.expect("there").1, 1);
    for broken in ["", "none", "nonsense", "token"] {
        std::fs::write(file.path(), broken).expect("written");
        assert!(!renewing.others_than(1).await, "{broken}");
        let (credential, number) = renewing.current().await.expect("the old one");
        assert_eq!((*credential, number), (1, 1), "{broken}");
    }
    std::fs::write(file.path(), "22").expect("written");
    assert!(renewing.others_than(1).await);
    assert_eq!(*renewing.get_credential().await.expect("the new one"), 22);
    // The same again is no change, and one that was denied for an earlier number may have been replaced in the meantime.
    assert!(!renewing.others_than(2).await && renewing.others_than(1).await);
}

#[tokio::test]
async fn without_a_denial_files_are_looked_at_once_a_second() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "1").expect("written");
    let began = Instant::now();
    let renewing = renewing(file.path());
    std::fs::write(file.path(), "22").expect("written");
    while *renewing.get_credential().await.expect("there") != 22 {
        assert!(began.elapsed() < Duration::from_secs(20), "never looked at");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(
        began.elapsed() >= LOOK_EVERY / 2,
        "looked at more often: {:?}",
        began.elapsed()
    );
}
