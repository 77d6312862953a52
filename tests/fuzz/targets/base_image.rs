#![no_main]
//! Base images in archives: the tar, its documents, and the layers' own tars.

use imgbuild::{
    base::{BaseSource, Loader, Platform, media, tree::BaseTree},
    diff::LayerContents,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    imgbuild_fuzz::with_file(data, ".tar", |path| {
        let path = path.display().to_string();
        let loader = Loader {
            store: imgbuild_fuzz::store().clone(),
            reporter: imgbuild_fuzz::reporter(),
            platform: Platform::linux_amd64(),
            offline: true,
            registries: Default::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        for source in [
            BaseSource::OciArchive(path.clone()),
            BaseSource::DockerArchive(path.clone()),
        ] {
            let daemon = async { Err(imgbuild::error::Error::input("no daemon")) };
            if let Ok(image) = runtime.block_on(loader.load(&source, None, daemon)) {
                let store = imgbuild_fuzz::store();
                let _ = BaseTree::scan(&image.layers, store);
                for layer in &image.layers {
                    let tar = media::open_layer(store, &layer.digest);
                    let _ = tar.map(LayerContents::read);
                }
            }
        }
    });
});
