#![cfg_attr(fuzzing, no_main)]
fuzz::program!(disk_info);
