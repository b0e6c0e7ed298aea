import { type Agent, request as httpRequest, type IncomingMessage } from 'node:http';

export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

export interface RequestOptions {
  readonly method?: 'GET' | 'POST' | 'DELETE';
  readonly key?: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
  /** Keeps connections, as a client does that posts often; without one each request has a connection of its own. */
  readonly agent?: Agent;
  /** Bound of the whole exchange. Default 4 000: a replica that stands still takes connections and never answers. */
  readonly timeoutMs?: number;
}

/**
 * One request, on a connection of its own where no agent is given, so that the balancer chooses anew. Rejects when the
 * connection breaks; nothing is tried again.
 */
export function send(url: string, options: RequestOptions = {}): Promise<Answer> {
  const body = options.body === undefined ? undefined : JSON.stringify(options.body);
  const timeoutMs = options.timeoutMs ?? 4_000;
  const { promise, resolve, reject } = Promise.withResolvers<Answer>();
  const outgoing = httpRequest(url, {
    agent: options.agent ?? false,
    method: options.method ?? (body === undefined ? 'GET' : 'POST'),
    headers: headersOf(options.key, { ...(body === undefined ? {} : jsonType), ...options.headers }),
  });
  const timer = setTimeout(
    () => outgoing.destroy(new Error(`no answer from ${url} in ${timeoutMs} ms`)),
    timeoutMs,
  );
  outgoing.on('error', reject);
  outgoing.on('close', () => {
    clearTimeout(timer);
    reject(new Error(`the connection to ${url} was closed`));
  });
  outgoing.on('response', (response) => {
    let text = '';
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => {
      text += chunk;
    });
    response.on('error', reject);
    response.on('end', () => {
      if (response.complete)
        resolve({ status: response.statusCode ?? 0, headers: response.headers, body: text });
    });
  });
  outgoing.end(body);
  return promise;
}

const jsonType = { 'content-type': 'application/json' };

export function headersOf(
  key: string | undefined,
  more: Readonly<Record<string, string>>,
): Record<string, string> {
  return key === undefined ? { ...more } : { 'x-api-key': key, ...more };
}
