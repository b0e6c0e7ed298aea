import { fault } from '@signalbox/faults/fault';
import type { ZipkinSpan } from './trace-tree.ts';

const lookbackMs = 7 * 24 * 3600 * 1000;
const maxTraces = 10;
const requestTimeoutMs = 5000;

/**
 * Every trace that has a span with this tag, each whole: a search answers only what matched when it ran, so each trace
 * is read again by its id. Throws TIMEOUT or INTERNAL_ERROR when Zipkin does not answer.
 */
export async function findTraces(zipkinUrl: string, tag: string, value: string): Promise<ZipkinSpan[][]> {
  const query = new URLSearchParams({
    annotationQuery: `${tag}=${value}`,
    lookback: String(lookbackMs),
    limit: String(maxTraces),
  });
  const found = readTraces(await get(zipkinUrl, `/api/v2/traces?${query}`));
  const ids = [...new Set(found.flatMap((spans) => spans.slice(0, 1).map((span) => span.traceId)))];
  const whole = await Promise.all(
    ids.map(async (id) => readTraces([await get(zipkinUrl, `/api/v2/trace/${id}`)])[0] ?? []),
  );
  return whole.filter((spans) => spans.length > 0);
}

async function get(base: string, path: string): Promise<unknown> {
  let response: Response;
  try {
    response = await fetch(new URL(path, base), { signal: AbortSignal.timeout(requestTimeoutMs) });
  } catch (error) {
    throw fault(
      'TIMEOUT',
      `no Zipkin answers at ${base}: start the stack (npm start), or name it in ZIPKIN_URL`,
      {
        cause: error,
      },
    );
  }
  if (response.status === 404) return [];
  if (!response.ok) throw fault('INTERNAL_ERROR', `Zipkin at ${base} answered ${response.status} to ${path}`);
  return response.json();
}

function readTraces(answer: unknown): ZipkinSpan[][] {
  if (!Array.isArray(answer)) return [];
  return answer.map((trace) => (Array.isArray(trace) ? trace.flatMap(readSpan) : []));
}

function readSpan(value: unknown): ZipkinSpan[] {
  const read = (name: string, from: unknown = value): unknown =>
    typeof from === 'object' && from !== null ? Reflect.get(from, name) : undefined;
  const [traceId, id, parentId, name, kind] = ['traceId', 'id', 'parentId', 'name', 'kind'].map((each) =>
    read(each),
  );
  if (typeof traceId !== 'string' || typeof id !== 'string') return [];
  const [timestamp, duration] = [read('timestamp'), read('duration')];
  const serviceName = read('serviceName', read('localEndpoint'));
  const tags = read('tags');
  return [
    {
      traceId,
      id,
      ...(typeof parentId === 'string' ? { parentId } : {}),
      ...(typeof name === 'string' ? { name } : {}),
      ...(typeof kind === 'string' ? { kind } : {}),
      ...(typeof timestamp === 'number' ? { timestamp } : {}),
      ...(typeof duration === 'number' ? { duration } : {}),
      ...(typeof serviceName === 'string' ? { localEndpoint: { serviceName } } : {}),
      ...(typeof tags === 'object' && tags !== null
        ? { tags: Object.fromEntries(Object.entries(tags).map(([key, tag]) => [key, String(tag)])) }
        : {}),
    },
  ];
}
