import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { environmentWith } from '@signalbox/config/process-environment';

export interface RebuildStreams {
  readonly print: (line: string) => void;
  readonly note: (line: string) => void;
}

interface LogLine {
  readonly event?: string;
  readonly records?: number;
  readonly unreadable?: number;
  readonly took_ms?: number;
  readonly error_code?: string;
  readonly error_message?: string;
}

const program = new URL('../../memory-replicator/src/rebuild-main.ts', import.meta.url);

/**
 * Runs memory-replicator's own rebuild, in the service's role (DATABASE_URL): its tables and its topic are nobody else's to
 * read. Ctrl-C reaches it too. Answers whether the new copy is the live one.
 */
export async function rebuildMemories({ print, note }: RebuildStreams): Promise<boolean> {
  const child = spawn(process.execPath, [program.pathname], {
    env: environmentWith({ ENVIRONMENT: environmentWith({}).ENVIRONMENT ?? 'dev', LOG_FORMAT: 'json' }),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  for await (const text of createInterface({ input: child.stdout })) {
    const line = logLine(text);
    if (line?.event === 'memory.rebuild_started') note('reading memory.wal beside the live copy');
    if (line?.event === 'memory.rebuilt') {
      const unreadable = line.unreadable === 0 ? '' : `, ${line.unreadable} of them unreadable`;
      print(
        `rebuilt from ${line.records} records${unreadable} in ${((line.took_ms ?? 0) / 1_000).toFixed(1)} s; the new copy is live`,
      );
    }
    if (line?.error_code !== undefined && /failed|invalid|rejection/.test(line.event ?? '')) {
      note(`${line.error_code}: ${line.error_message}`);
    }
  }
  return (await ended) === 0;
}

function logLine(text: string): LogLine | undefined {
  try {
    const line: LogLine | null = JSON.parse(text);
    return line ?? undefined;
  } catch {
    return undefined;
  }
}
