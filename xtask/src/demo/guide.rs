//! What the webhook integration guide says the first three events look like on the wire: the match
//! of its Quick Start, its upload and its rebuild, without the spaces. Written down here so that the
//! demo's check depends on nothing that it checks.

/// The bodies, in the order in which the dashboard publishes them.
pub(super) const BODIES: [&str; 3] = [
    concat!(
        r#"{"event":"match","timestamp":"2025-11-30T14:30:45.123Z","data":{"#,
        r#""best_model":"ray_ban_glasses.glb","confidence":0.87,"source_image":"ray_ban_glasses.jpg","#,
        r#""model_url":"https://jigu.s3.eu-west-1.wasabisys.com/ray_ban_glasses.glb?...","#,
        r#""timestamp":"2025-11-30T14:30:45.123Z","images_count":3}}"#
    ),
    concat!(
        r#"{"event":"upload","timestamp":"2025-11-30T14:30:45.123Z","data":{"#,
        r#""model_name":"new_glasses.glb","has_thumbnail":true,"uploaded_by":"api_key_name"}}"#
    ),
    concat!(
        r#"{"event":"rebuild","timestamp":"2025-11-30T14:30:45.123Z","data":{"#,
        r#""models_count":167,"success":true}}"#
    ),
];
