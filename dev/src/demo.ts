import { loadSettings, text, url } from '@signalbox/config/settings';
import { processSources, projectRoot } from '@signalbox/config/sources';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { type Gateway, type Posted, post, streamOf } from './demo-gateway.ts';
import { missingHops } from './demo-hops.ts';
import { PartProblem } from './part-problem.ts';
import { type Progress, printProgress } from './progress.ts';
import { runCli } from './run-cli.ts';
import { seededTenants } from './seed-data.ts';
import { terminalLog } from './terminal-log.ts';
import { waitUntil } from './wait-until.ts';

const question = 'What is 17 * 23? Use the calculator.';
const answerWithinMs = 60_000;
const tries = 4;

const print = (line: string): void => void process.stdout.write(`${line}\n`);

/** Prints the answer as it comes. @throws PartProblem when the turn fails, or ends without having used a tool. */
async function showAnswer(gateway: Gateway, { sessionId, turnId }: Posted): Promise<void> {
  let usedTool = false;
  let midLine = false;
  const line = (words: string) => {
    print(`${midLine ? '\n' : ''}${words}`);
    midLine = false;
  };
  for await (const { type, data } of streamOf(gateway, sessionId, AbortSignal.timeout(answerWithinMs))) {
    if (data.turn_id !== turnId) continue;
    if (type === 'assistant.delta') {
      process.stdout.write(String(data.text));
      midLine = true;
    } else if (type === 'tool.started') line(`[${data.tool} ${JSON.stringify(data.arguments)}]`);
    else if (type === 'tool.result') {
      usedTool = true;
      line(`[${data.tool}: ${data.outcome} ${data.output}]`);
    } else if (type === 'assistant.error')
      throw new PartProblem(`the turn failed: ${data.error_code} ${data.message}`);
    else if (type === 'assistant.final') {
      line('');
      if (!usedTool) throw new PartProblem('the answer came without a tool call');
      return;
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

/** `npm run demo`: one message that needs a tool, its streamed answer, its trace. Exits non-zero when a hop is missing. */
await runMain(async (lifecycle) => {
  const progress = printProgress();
  lifecycle.configure({
    drainDelayMs: 0,
    stopTimeoutMs: 5_000,
    log: { ...terminalLog(progress), info: () => {} },
  });
  const settings = loadDemoSettings();
  const gateway = { url: settings.gatewayUrl, apiKey: settings.apiKey };
  print(`> ${question}`);
  const posted = await post(gateway, question);
  await showAnswer(gateway, posted);
  await showTrace(posted.eventId, progress, lifecycle.stopEvent);
  await lifecycle.stop('done');
});
