import { loadSettings, text, url } from '@signalbox/config/settings';
import { processSources, projectRoot } from '@signalbox/config/sources';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import {
  countMemories,
  type Gateway,
  type Posted,
  post,
  type StreamedEvent,
  streamOf,
} from './demo-gateway.ts';
import { missingHops } from './demo-hops.ts';
import { PartProblem } from './part-problem.ts';
import { type Progress, printProgress } from './progress.ts';
import { runCli } from './run-cli.ts';
import { seededTenants } from './seed-data.ts';
import { terminalLog } from './terminal-log.ts';
import { waitUntil } from './wait-until.ts';

const told = 'say The harbour code is 4711.';
const query = 'the harbour code';
const question =
  'What do you remember of the harbour code?; Delegate to researcher: say hello; What is 17 * 23?';
const answerWithinMs = 60_000;
const memoryWithinMs = 30_000;
const tries = 4;

const print = (line: string): void => void process.stdout.write(`${line}\n`);

/** What a turn has to show before its end. */
interface Seen {
  recalled: boolean;
  tool: boolean;
  delegated: boolean;
}

/** An event in one line, if it is one to show. */
function lineOf({ type, data }: StreamedEvent): string | undefined {
  const at = (value: unknown, name: string): unknown =>
    typeof value === 'object' && value !== null ? Reflect.get(value, name) : undefined;
  if (type === 'memory.recalled') {
    const memories: unknown[] = Array.isArray(data.memories) ? data.memories : [];
    const first = memories.length === 0 ? '' : `, first ${JSON.stringify(at(memories[0], 'text'))}`;
    return `[recalled: ${data.outcome}, ${memories.length} memories${first}]`;
  }
  if (type === 'tool.started') return `[${data.tool} ${JSON.stringify(data.arguments)}]`;
  if (type === 'tool.result') return `[${data.tool}: ${data.outcome} ${data.output}]`;
  if (type === 'delegation.updated') {
    const result = data.result === undefined ? '' : ` ${JSON.stringify(at(data.result, 'text'))}`;
    return `[task for ${at(data.target, 'persona_id')}: ${data.status}${result}]`;
  }
  return undefined;
}

/** Prints the answer as it comes. @throws PartProblem when the turn fails. */
async function showAnswer(gateway: Gateway, { sessionId, turnId }: Posted): Promise<Seen> {
  const seen: Seen = { recalled: false, tool: false, delegated: false };
  let midLine = false;
  const line = (words: string) => {
    print(`${midLine ? '\n' : ''}${words}`);
    midLine = false;
  };
  for await (const event of streamOf(gateway, sessionId, AbortSignal.timeout(answerWithinMs))) {
    const { type, data } = event;
    if (data.turn_id !== turnId) continue;
    const shown = lineOf(event);
    if (shown !== undefined) line(shown);
    if (type === 'assistant.delta') {
      process.stdout.write(String(data.text));
      midLine = true;
    } else if (type === 'memory.recalled') seen.recalled = data.outcome === 'ok';
    else if (type === 'tool.result') seen.tool = true;
    else if (type === 'delegation.updated') seen.delegated ||= data.status === 'completed';
    else if (type === 'assistant.error')
      throw new PartProblem(`the turn failed: ${data.error_code} ${data.message}`);
    else if (type === 'assistant.final') {
      line('');
      return seen;
    }
  }
  throw new PartProblem(`no final answer within ${answerWithinMs / 1_000} s`);
}

function loadDemoSettings() {
  const sources = processSources();
  return loadSettings(
    'demo',
    {
      gatewayUrl: url({
        env: 'GATEWAY_URL',
        doc: 'The gateway to talk to.',
        default: 'http://127.0.0.1:8010',
      }),
      zipkinUrl: url({
        env: 'ZIPKIN_URL',
        doc: 'Where traces are looked up.',
        default: 'http://127.0.0.1:9411',
      }),
      apiKey: text({
        env: 'API_KEY',
        doc: 'Key to use; the first seeded one.',
        default: seededTenants[0]?.key ?? '',
      }),
    },
    { ...sources, environment: { ENVIRONMENT: 'dev', ...sources.environment } },
  );
}

async function isUp(zipkinUrl: string): Promise<boolean> {
  try {
    const reply = await fetch(new URL('/health', zipkinUrl), { signal: AbortSignal.timeout(2_000) });
    await reply.body?.cancel();
    return reply.ok;
  } catch {
    return false;
  }
}

/** Prints the trace when it is whole: Zipkin may still be coming up, and spans of the last hop arrive a few seconds late. */
async function showTrace(eventId: string, progress: Progress, signal: AbortSignal): Promise<void> {
  let zipkinUrl = loadDemoSettings().zipkinUrl;
  if (!(await isUp(zipkinUrl))) {
    progress('demo: waiting for Zipkin');
    // Its address comes into the state file when it is up.
    const answers = () => {
      zipkinUrl = loadDemoSettings().zipkinUrl;
      return isUp(zipkinUrl);
    };
    await waitUntil(answers, {
      label: `Zipkin at ${zipkinUrl}`,
      timeoutMs: 120_000,
      intervalMs: 250,
      signal,
    });
  }
  let missing: readonly string[] = [];
  let output = '';
  for (let tried = 0; tried < tries; tried += 1) {
    const result = await runCli(projectRoot, ['trace', eventId, '--wait', '15', '--zipkin', zipkinUrl]);
    output = result.output.trimEnd();
    missing = result.code === 0 ? missingHops(output) : ['the trace'];
    if (missing.length === 0) break;
  }
  print(output);
  if (missing.length > 0) throw new PartProblem(`hops are missing in the trace: ${missing.join(', ')}`);
  progress('demo: every hop is in the trace');
}

/**
 * `npm run demo`: one session is told something; another one is asked for it, gives a task to a persona and uses a tool.
 * Prints both answers and the trace of the second. Exits non-zero when one of them or a hop is missing.
 */
await runMain(async (lifecycle) => {
  const progress = printProgress();
  lifecycle.configure({
    drainDelayMs: 0,
    stopTimeoutMs: 5_000,
    log: { ...terminalLog(progress), info: () => {} },
  });
  const settings = loadDemoSettings();
  const gateway = { url: settings.gatewayUrl, apiKey: settings.apiKey };
  print(`> ${told}`);
  await showAnswer(gateway, await post(gateway, told));
  await waitUntil(async () => (await countMemories(gateway, query)) > 0, {
    label: 'the memory of it',
    timeoutMs: memoryWithinMs,
    intervalMs: 100,
    signal: lifecycle.stopEvent,
  });
  print(`> ${question}`);
  const posted = await post(gateway, question);
  const seen = await showAnswer(gateway, posted);
  for (const [what, there] of Object.entries(seen))
    if (!there) throw new PartProblem(`the answer came without: ${what}`);
  await showTrace(posted.eventId, progress, lifecycle.stopEvent);
  await lifecycle.stop('done');
});
