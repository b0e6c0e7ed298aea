import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { createTickLines } from './tick-lines.ts';

const logger = new URL('./logger.ts', import.meta.url).href;

/** Runs a script with a logger on its stdout; answers the events of its lines, and how it ended. */
function run(script: string): { events: unknown[]; status: number | null; signal: string | null } {
  const source = `
    import { createLogger } from ${JSON.stringify(logger)};
    const log = createLogger({ service: 's', version: '1', environment: 'dev', level: 'INFO', format: 'json' });
    ${script}`;
  const { stdout, status, signal } = spawnSync(
    process.execPath,
    ['--input-type=module-typescript', '-e', source],
    {
      encoding: 'utf8',
    },
  );
  const events = stdout.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line).event] : []));
  return { events, status, signal };
}

test('lines of one turn become one write, in order', async () => {
  const writes: string[] = [];
  const lines = createTickLines({ write: (text) => void writes.push(text) });
  lines.write('a\n');
  lines.write('b\n');
  expect(writes).toEqual([]);
  await new Promise((resolve) => setImmediate(resolve));
  lines.write('c\n');
  lines.flush();
  lines.flush();
  expect(writes).toEqual(['a\nb\n', 'c\n']);
});

test('a turn that writes much is not held back', () => {
  const writes: string[] = [];
  const lines = createTickLines({ write: (text) => void writes.push(text) });
  for (let i = 0; i < 100; i += 1) lines.write(`${'x'.repeat(999)}\n`);
  expect(writes.length).toBe(1);
});

test('no line is lost, however the process ends by itself', () => {
  expect(run(`log.info('first'); log.info('last');`)).toMatchObject({ events: ['first', 'last'], status: 0 });
  expect(run(`log.info('last'); process.exit(3);`)).toMatchObject({ events: ['last'], status: 3 });
  expect(run(`log.info('last'); throw new Error('x');`)).toMatchObject({ events: ['last'], status: 1 });
  expect(run(`log.info('last'); await Promise.reject(new Error('x'));`)).toMatchObject({ events: ['last'] });
  const late = `process.on('exit', () => log.info('at exit')); log.info('last'); process.exit(0);`;
  expect(run(late).events).toEqual(['last', 'at exit']);
});

test('an error, and what stands before it, is out before the process can be killed', () => {
  const killed = run(
    `log.info('before'); log.error('bad'); process.kill(process.pid, 'SIGKILL'); log.info('after');`,
  );
  expect(killed).toMatchObject({ events: ['before', 'bad'], signal: 'SIGKILL' });
});
