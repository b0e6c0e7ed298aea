import { spawn } from 'node:child_process';

/**
 * What a shell does for us after our death. It reads one instruction a line; when its input ends without `done`, the
 * process that fed it is gone (kill -9, a crash): it ends every watched process, newest first, and removes the folder.
 */
const script = `
trap '' INT TERM HUP
list= folder=
while read -r verb first second; do
  case $verb in
    watch) list="$first:$second $list" ;;
    forget) kept=; for each in $list; do [ "\${each%%:*}" = "$first" ] || kept="$kept $each"; done; list=$kept ;;
    remove) folder=$first ;;
    done) exit 0 ;;
  esac
done
for each in $list; do kill -s "\${each##*:}" "\${each%%:*}" 2>/dev/null; done
tries=0
while [ $tries -lt 100 ]; do
  left=; for each in $list; do kill -0 "\${each%%:*}" 2>/dev/null && left="$left \${each%%:*}"; done
  [ -z "$left" ] && break
  tries=$((tries + 1)); sleep 0.1
done
for each in $left; do kill -9 "$each" 2>/dev/null; done
[ -n "$folder" ] && { sleep 0.1; rm -rf "$folder"; }
exit 0
`;

/** Ends processes that would outlive a killed parent: Kafka, Postgres and Redis cannot watch for its death themselves. */
export interface Keeper {
  readonly pid: number;
  watch(pid: number, signal: 'SIGTERM' | 'SIGINT'): void;
  forget(pid: number): void;
  /** All was ended in order: nothing to do for the keeper. */
  close(): void;
  /** What the death of this process does to the keeper; for tests. */
  breakOff(): void;
}

/** Starts the keeper. `removeFolder` is deleted when this process dies without closing (no blanks in its path). */
export function startKeeper(removeFolder?: string): Keeper {
  // Detached: a Ctrl-C at the terminal goes to the foreground group, and must not end the keeper before us.
  const child = spawn('sh', ['-c', script], {
    stdio: ['pipe', 'ignore', 'ignore'],
    detached: true,
    cwd: '/',
  });
  const input = child.stdin;
  child.on('error', () => {});
  input.on('error', () => {});
  child.unref();
  // The pipe must not keep this process alive.
  if ('unref' in input && typeof input.unref === 'function') input.unref();
  const tell = (line: string) => {
    if (input.writable) input.write(`${line}\n`);
  };
  if (removeFolder !== undefined) tell(`remove ${removeFolder}`);
  return {
    pid: child.pid ?? 0,
    watch: (pid, signal) => tell(`watch ${pid} ${signal.slice(3)}`),
    forget: (pid) => tell(`forget ${pid}`),
    close: () => {
      tell('done');
      input.end();
    },
    breakOff: () => void input.end(),
  };
}
