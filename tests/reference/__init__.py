"""Programs that run other packages on one problem and store what they answer; no test needs those packages."""
