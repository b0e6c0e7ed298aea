/** Where whole texts go at once: a file descriptor that is written synchronously. */
export interface LineSink {
  write(text: string): void;
}

export interface TickLines extends LineSink {
  /** Writes what waits now. */
  flush(): void;
}

/** A tick that writes more than this is not held back. */
const maxWaiting = 65_536;

/**
 * Gathers the lines of one turn of the event loop into one write: a write is a system call of 10 to 100 µs, and under
 * load a turn ends dozens of requests. Lines leave at the end of the turn, at `flush`, and when the process exits,
 * whoever ends it: `exit` runs after process.exit, an uncaught error, and an empty event loop. Only a death that runs no
 * code at all (SIGKILL, an abort of the VM) takes the lines of its last turn along.
 */
export function createTickLines(sink: LineSink): TickLines {
  let waiting = '';
  let scheduled = false;
  let exiting = false;
  const flush = () => {
    if (waiting === '') return;
    const text = waiting;
    waiting = '';
    sink.write(text);
  };
  const atEndOfTurn = () => {
    scheduled = false;
    flush();
  };
  process.on('exit', () => {
    exiting = true;
    flush();
  });
  return {
    write(text) {
      waiting += text;
      if (exiting || waiting.length > maxWaiting) flush();
      else if (!scheduled) {
        scheduled = true;
        setImmediate(atEndOfTurn);
      }
    },
    flush,
  };
}
