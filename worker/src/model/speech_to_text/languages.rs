//! Languages by name: ISO 639 codes (two letters, three where there are no two), and what they are called in English.

/// Code and names, in the order of codes.
const LANGUAGES: [(&str, &[&str]); 100] = [
    ("af", &["afrikaans"]),
    ("am", &["amharic"]),
    ("ar", &["arabic"]),
    ("as", &["assamese"]),
    ("az", &["azerbaijani"]),
    ("ba", &["bashkir"]),
    ("be", &["belarusian"]),
    ("bg", &["bulgarian"]),
    ("bn", &["bengali"]),
    ("bo", &["tibetan"]),
    ("br", &["breton"]),
    ("bs", &["bosnian"]),
    ("ca", &["catalan", "valencian"]),
    ("cs", &["czech"]),
    ("cy", &["welsh"]),
    ("da", &["danish"]),
    ("de", &["german"]),
    ("el", &["greek"]),
    ("en", &["english"]),
    ("es", &["spanish", "castilian"]),
    ("et", &["estonian"]),
    ("eu", &["basque"]),
    ("fa", &["persian"]),
    ("fi", &["finnish"]),
    ("fo", &["faroese"]),
    ("fr", &["french"]),
    ("gl", &["galician"]),
    ("gu", &["gujarati"]),
    ("ha", &["hausa"]),
    ("haw", &["hawaiian"]),
    ("he", &["hebrew"]),
    ("hi", &["hindi"]),
    ("hr", &["croatian"]),
    ("ht", &["haitian creole", "haitian"]),
    ("hu", &["hungarian"]),
    ("hy", &["armenian"]),
    ("id", &["indonesian"]),
    ("is", &["icelandic"]),
    ("it", &["italian"]),
    ("ja", &["japanese"]),
    ("jw", &["javanese"]),
    ("ka", &["georgian"]),
    ("kk", &["kazakh"]),
    ("km", &["khmer"]),
    ("kn", &["kannada"]),
    ("ko", &["korean"]),
    ("la", &["latin"]),
    ("lb", &["luxembourgish", "letzeburgesch"]),
    ("ln", &["lingala"]),
    ("lo", &["lao"]),
    ("lt", &["lithuanian"]),
    ("lv", &["latvian"]),
    ("mg", &["malagasy"]),
    ("mi", &["maori"]),
    ("mk", &["macedonian"]),
    ("ml", &["malayalam"]),
    ("mn", &["mongolian"]),
    ("mr", &["marathi"]),
    ("ms", &["malay"]),
    ("mt", &["maltese"]),
    ("my", &["myanmar", "burmese"]),
    ("ne", &["nepali"]),
    ("nl", &["dutch", "flemish"]),
    ("nn", &["nynorsk"]),
    ("no", &["norwegian"]),
    ("oc", &["occitan"]),
    ("pa", &["punjabi", "panjabi"]),
    ("pl", &["polish"]),
    ("ps", &["pashto", "pushto"]),
    ("pt", &["portuguese"]),
    ("ro", &["romanian", "moldavian", "moldovan"]),
    ("ru", &["russian"]),
    ("sa", &["sanskrit"]),
    ("sd", &["sindhi"]),
    ("si", &["sinhala", "sinhalese"]),
    ("sk", &["slovak"]),
    ("sl", &["slovenian"]),
    ("sn", &["shona"]),
    ("so", &["somali"]),
    ("sq", &["albanian"]),
    ("sr", &["serbian"]),
    ("su", &["sundanese"]),
    ("sv", &["swedish"]),
    ("sw", &["swahili"]),
    ("ta", &["tamil"]),
    ("te", &["telugu"]),
    ("tg", &["tajik"]),
    ("th", &["thai"]),
    ("tk", &["turkmen"]),
    ("tl", &["tagalog"]),
    ("tr", &["turkish"]),
    ("tt", &["tatar"]),
    ("uk", &["ukrainian"]),
    ("ur", &["urdu"]),
    ("uz", &["uzbek"]),
    ("vi", &["vietnamese"]),
    ("yi", &["yiddish"]),
    ("yo", &["yoruba"]),
    ("yue", &["cantonese"]),
    ("zh", &["chinese", "mandarin"]),
];

/// The code of a language that is named by its code or in English.
pub(super) fn code(name: &str) -> Result<String, String> {
    let wanted = name.trim().to_lowercase();
    let known = LANGUAGES.iter().find(|(code, names)| *code == wanted || names.contains(&wanted.as_str()));
    known.map(|(code, _)| (*code).to_owned()).ok_or_else(|| {
        format!("{name} is no language that is known here; give its code, such as de, or its name in English, such as german")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_known_by_code_and_name() {
        for (name, wanted) in
            [("de", "de"), ("German", "de"), (" castilian ", "es"), ("mandarin", "zh"), ("yue", "yue")]
        {
            assert_eq!(code(name).as_deref(), Ok(wanted));
        }
        assert!(code("elvish").unwrap_err().contains("german"));
        assert!(LANGUAGES.is_sorted_by_key(|(code, _)| code));
    }
}
