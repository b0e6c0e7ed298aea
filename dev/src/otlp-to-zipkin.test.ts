import { describe, expect, test } from 'vitest';
import { toZipkin } from './otlp-to-zipkin.ts';

const traceId = '5b8efff798038103d269b633813fc60c';
const spanId = 'eee19b7ec3c1b174';

function request(span: object, resource: [string, string][] = [['service.name', 'gateway']]) {
  return {
    resourceSpans: [
      {
        resource: { attributes: resource.map(([key, stringValue]) => ({ key, value: { stringValue } })) },
        scopeSpans: [
          {
            scope: { name: 'signalbox' },
            spans: [
              {
                traceId,
                spanId,
                name: 'accept',
                kind: 2,
                startTimeUnixNano: '1544712660123456789',
                endTimeUnixNano: '1544712661123456999',
                ...span,
              },
            ],
          },
        ],
      },
    ],
  };
}

const one = (span: object) => toZipkin(request(span)).spans[0];

describe('OTLP to Zipkin', () => {
  test('ids, name, kind, service; microseconds to the last digit', () => {
    expect(one({ parentSpanId: 'AAE19B7EC3C1B174' })).toEqual({
      traceId,
      id: spanId,
      parentId: 'aae19b7ec3c1b174',
      name: 'accept',
      kind: 'SERVER',
      timestamp: 1544712660123456,
      duration: 1000000,
      localEndpoint: { serviceName: 'gateway' },
      tags: { 'otel.scope.name': 'signalbox' },
    });
  });

  test('a span shorter than a microsecond lasts one: Zipkin takes 0 as unknown', () => {
    expect(one({ endTimeUnixNano: '1544712660123456800' })?.duration).toBe(1);
  });

  test('every kind of attribute becomes a tag', () => {
    const attributes = [
      { key: 'signalbox.event_id', value: { stringValue: 'e1' } },
      { key: 'many', value: { intValue: '9007199254740993' } },
      { key: 'few', value: { intValue: 3 } },
      { key: 'ratio', value: { doubleValue: 0.5 } },
      { key: 'yes', value: { boolValue: true } },
      { key: 'list', value: { arrayValue: { values: [{ stringValue: 'a' }, { intValue: 1 }] } } },
      { key: 'map', value: { kvlistValue: { values: [{ key: 'k', value: { stringValue: 'v' } }] } } },
      { key: 'nothing', value: {} },
    ];
    expect(one({ attributes })?.tags).toEqual({
      'otel.scope.name': 'signalbox',
      'signalbox.event_id': 'e1',
      many: '9007199254740993',
      few: '3',
      ratio: '0.5',
      yes: 'true',
      list: '["a",1]',
      map: '{"k":"v"}',
    });
  });

  test('an error status is a tag that Zipkin paints red', () => {
    expect(one({ status: { code: 2, message: 'refused' } })?.tags).toMatchObject({
      error: 'refused',
      'otel.status_code': 'ERROR',
    });
    expect(one({ status: { code: 2 } })?.tags).toMatchObject({ error: 'true' });
    expect(one({ status: { code: 1 } })?.tags).not.toHaveProperty('error');
  });

  test('events become annotations, links become tags', () => {
    const span = one({
      events: [
        { name: 'retry', timeUnixNano: '1544712660300000000' },
        {
          name: 'parked',
          timeUnixNano: '1544712660400000000',
          attributes: [{ key: 'step', value: { intValue: 2 } }],
        },
      ],
      links: [{ traceId, spanId: '00f067aa0ba902b7' }],
    });
    expect(span?.annotations).toEqual([
      { timestamp: 1544712660300000, value: 'retry' },
      { timestamp: 1544712660400000, value: 'parked: {"step":"2"}' },
    ]);
    expect(span?.tags['link.0']).toBe(`${traceId}-00f067aa0ba902b7`);
  });

  test('a producer points at its topic', () => {
    const attributes = [{ key: 'messaging.destination.name', value: { stringValue: 'tool.requests' } }];
    expect(one({ kind: 4, attributes })).toMatchObject({
      kind: 'PRODUCER',
      remoteEndpoint: { serviceName: 'tool.requests' },
    });
    expect(one({ kind: 1, attributes })).not.toHaveProperty('remoteEndpoint');
    expect(one({ kind: 1 })).not.toHaveProperty('kind');
  });

  test('counts what has no ids, and stands anything', () => {
    expect(toZipkin(request({ traceId: 'short' }))).toEqual({ spans: [], rejected: 1 });
    for (const odd of [undefined, null, 1, [], {}, { resourceSpans: [1, { scopeSpans: 'x' }] }]) {
      expect(toZipkin(odd)).toEqual({ spans: [], rejected: 0 });
    }
  });

  test('a span without a service is unknown, and the version goes with it', () => {
    expect(toZipkin(request({}, [['service.version', '1.2']])).spans[0]).toMatchObject({
      localEndpoint: { serviceName: 'unknown_service' },
      tags: { 'service.version': '1.2' },
    });
  });
});
