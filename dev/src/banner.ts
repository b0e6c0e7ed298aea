import { seededTenants } from './seed-data.ts';
import { type Given, givesModel } from './stack-settings.ts';
import type { StackState } from './state-file.ts';

function modelLines(state: StackState, given: Given): string[] {
  if (givesModel(given))
    return [
      `  model     ${given.modelBaseUrl ?? `${given.modelProvider ?? 'openai'}, at its public address`}`,
    ];
  return [
    `  model     a stand-in at ${state.model?.url}: it answers by rules (dev/simulators/model/README.md)`,
    '            a real one: MODEL_BASE_URL=https://api.openai.com/v1 MODEL_API_KEY=<key> MODEL_NAME=<model> npm start',
    '                    or: MODEL_PROVIDER=anthropic MODEL_API_KEY=<key> MODEL_NAME=<model> npm start',
  ];
}

function tryLines(gateway: string | undefined): string[] {
  const key = seededTenants[0]?.key;
  if (gateway === undefined || key === undefined) return ['  the gateway was left out: npx nx serve gateway'];
  return [
    `  try       curl -s ${gateway}/v1/session/message -H 'X-API-Key: ${key}' -H 'Content-Type: application/json' -d '{"message":"What is 17 * 23?"}'`,
    `            curl -N ${gateway}/v1/session/<session_id of the reply>/events -H 'X-API-Key: ${key}'`,
    '            npm run chat     talks in this terminal',
    '            npm run demo     a memory, a task, a tool: their answer and its trace',
  ];
}

/** What is shown when all is up: addresses, keys, and a line that works as it stands. */
export function bannerText(state: StackState, given: Given, seconds: number): string {
  const gateway = state.services.gateway?.url;
  const tasks = state.services['delegation-gateway']?.url;
  const lines = [
    '',
    `Signalbox is up, after ${seconds.toFixed(1)} s. Ctrl-C stops it.`,
    '',
    ...(gateway === undefined ? [] : [`  gateway   ${gateway}   its API: ${gateway}/docs`]),
    ...(tasks === undefined ? [] : [`  tasks     ${tasks}   their API: ${tasks}/docs`]),
    given.otlpEndpoint === undefined
      ? `  traces    ${state.zipkin === undefined ? 'Zipkin comes up now, its line follows' : `${state.zipkin.url}/zipkin/`}`
      : `  traces    sent to ${given.otlpEndpoint}`,
    `  kafka     ${state.kafka?.bootstrap}`,
    `  postgres  ${state.postgres?.url}`,
    `  redis     ${state.redis?.url}`,
    ...modelLines(state, given),
    '',
    ...seededTenants.map(
      ({ tenant, key }, index) => `  ${index === 0 ? 'keys    ' : '        '}  ${tenant.padEnd(8)} ${key}`,
    ),
    '',
    ...tryLines(gateway),
    '',
  ];
  return `${lines.join('\n')}\n`;
}
