//! What the law macros of blocks, media and heads have in common.

/// Makes a module of tests, one for each law of a module of `testing`; the exceptions print their reason.
#[doc(hidden)]
#[macro_export]
macro_rules! laws {
    ($of:ident, $module:ident, $make:expr, [$({ $($except:ident: $reason:expr),* $(,)? })?], $($law:ident),* $(,)?) => {
        mod $module {
            #[allow(unused_imports, reason = "a constructor may need nothing from outside")]
            use super::*;
            const EXCEPTIONS: &[(&str, &str)] = &[$($((stringify!($except), $reason)),*)?];
            $(
                #[tokio::test]
                async fn $law() {
                    if let Some((law, reason)) = EXCEPTIONS.iter().find(|(law, _)| *law == stringify!($law)) {
                        $crate::testing::skip(format_args!("{}::{law}: {reason}", stringify!($module)));
                        return;
                    }
                    $crate::testing::$of::$law($make.await.into()).await;
                }
            )*
            #[test]
            fn exceptions_name_laws() {
                const LAWS: &[&str] = &[$(stringify!($law)),*];
                for (law, _) in EXCEPTIONS {
                    assert!(LAWS.contains(law), "{law} is no law here");
                }
            }
        }
    };
}
