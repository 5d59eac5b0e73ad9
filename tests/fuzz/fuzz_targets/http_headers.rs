#![cfg_attr(fuzzing, no_main)]
fuzz::program!(http_headers);
