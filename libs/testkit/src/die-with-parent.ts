// Loaded into spawned services with --import: a test run that is killed with SIGKILL cannot stop its children, so each
// watches its parent and goes when it was handed to another one.
const parent = process.ppid;
setInterval(() => {
  if (process.ppid !== parent) {
    process.kill(process.pid, 'SIGKILL');
  }
}, 500).unref();
